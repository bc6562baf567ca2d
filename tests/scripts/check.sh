#!/usr/bin/env bash
# Format, lint, types and the README's reference: what CI runs before the tests.
set -eu
cd "$(dirname "$0")/../.."
ruff format --check bnexp tests
ruff check bnexp tests
mypy
python tests/scripts/reference.py --check

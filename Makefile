# What people and CI run. `make` lists it.
#
# Every cargo call below says `--workspace` and uses the one `dev` profile. Cargo compiles a dependency once for each set of
# features and each profile that it is asked for in; RocksDB takes ten minutes, so it is asked for in one way only.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-build setup-test setup-prove setup-lint build run demo test bench bench-approvals bench-scale bench-capabilities bench-log bench-questions lint fmt release-proto clean

# Asked of cargo, because a configuration file or CARGO_TARGET_DIR may have moved it.
TARGET_DIR = $(shell scripts/target-dir)
COUNTERSIGN = "$(TARGET_DIR)/debug/countersign"

# Arguments for the benchmark, such as `make bench BENCH="--quick --json bench.json"`.
BENCH ?=

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing for all of the below (libclang, Python packages, node and an OpenID Provider, buf)
	@scripts/setup build test lint

setup-build:
	@scripts/setup build

setup-test:
	@scripts/setup build test

setup-prove: ## Install the solver of `countersign policy prove` (cvc5, a Python package in .venv)
	@scripts/setup prove

setup-lint:
	@scripts/setup build lint

build: setup-build ## Build; the first time RocksDB is compiled, which takes ten minutes on two cores
	cargo build --workspace

run: build ## Walk one agent session through a server of its own, then keep serving
	$(COUNTERSIGN) demo --keep-serving

demo: build ## The same, and exit
	$(COUNTERSIGN) demo

test: setup-test ## Run all tests
	cargo test --workspace

bench: setup-build ## Measure the server and what it is made of; takes some minutes of an otherwise idle machine
	cargo bench --workspace --profile dev --bench server -- $(BENCH)

bench-approvals: setup-build ## Measure lists, votes and watchers beside ten thousand pending requests
	cargo bench --workspace --profile dev --bench approvals -- $(BENCH)

bench-scale: setup-build ## Measure decisions as policies and entities grow, to a hundred thousand and a million
	cargo bench --workspace --profile dev --bench scale -- $(BENCH)

bench-capabilities: setup-build ## Measure redeems beside ten million capabilities; takes 20 GB of disk and some minutes
	cargo bench --workspace --profile dev --bench capabilities -- $(BENCH)

bench-log: setup-build ## Measure appending to the log, checking and proving one of ten million records; takes 25 GB of disk and some minutes
	cargo bench --workspace --profile dev --bench log -- $(BENCH)

bench-questions: setup-build ## Measure searches of a log of ten million records; takes 25 GB of disk and a quarter of an hour, which indexing them takes most of
	cargo bench --workspace --profile dev --bench questions -- $(BENCH)

lint: setup-lint ## Check format, lints and the protocol
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	scripts/check-proto

fmt: ## Format the Rust code
	cargo fmt --all

release-proto: setup-lint ## Keep the protocol of this version as what later ones must not break
	scripts/release-proto

clean: ## Remove what was built here, and keep the dependencies: RocksDB again would take ten minutes
	scripts/forget-members

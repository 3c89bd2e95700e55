# One entry point for people and for CI. `make` lists the targets.

.DEFAULT_GOAL := help
.PHONY: help demo test check bench fuzz proto tools

# The reference that `make proto` compares the API with.
BASE ?= main
BUF := .tools/bin/buf
# Run from where they were built: cargo run would build anew with one package's features.
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release

# Our own tools first; mkfs and nft live where an ordinary path does not look.
export PATH := $(CURDIR)/.tools/bin:$(PATH):/usr/sbin:/sbin

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: tools ## Three real hosts in namespaces, joined by Loden; report in target/demo (ARGS=…)
	cargo build --locked --release --workspace --bins
	$(RELEASE)/loden-demo $(ARGS)

# All targets are built at once, so that the programs the tests start are built with the
# features the tests are built with, and nothing is compiled twice.
test: tools ## Every test, on the real kernel (needs root)
	cargo build --locked --workspace --all-targets
	cargo test --locked --workspace --doc
	cargo test --locked --workspace --lib --bins --tests

check: tools ## Format, lints, documentation, dependency arrows, API style
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	tools/arrows
	$(BUF) lint proto

bench: tools ## All benchmarks, or one (NAME=throughput); results in target/bench
	cargo build --locked --release --workspace --bins
	$(RELEASE)/loden-bench $(NAME)

fuzz: ## Each fuzz target for 60 seconds, or for SECONDS; needs a C++ compiler
	tools/fuzz $(SECONDS)

proto: tools ## API style, and what would break clients of BASE (main)
	$(BUF) lint proto
	$(BUF) breaking proto --against '.git#ref=$(BASE),subdir=proto'

tools: ## Install once what the other targets need, saying what it does
	@tools/install

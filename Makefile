# `make help` lists the targets; the kernel is the default. All downloads and build results go to target/.

XEN ?= 4.17
export XEN CMD

CARGO ?= cargo
KERNEL_BUILD = --profile kernel --target x86_64-unknown-linux-gnu --bin xenstore-stubdom --features kernel
KERNEL_CARGO = $(CARGO) --config .cargo/kernel.toml

# Bash for its pipefail. Recipes report on stderr: the stdout of `make run CMD=…` has only the command's output.
SHELL = /bin/bash
.SHELLFLAGS = -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.PHONY: kernel host tools run check test test-host test-xen lint test-kernels fetch simulate cost fuzz soak bench bench-xen clean help have-rust

kernel: have-rust ## the kernel: target/xenstore-stubdom, .gz, and with symbols -syms (the default)
	@$(KERNEL_CARGO) build $(KERNEL_BUILD) >&2
	@if ! cmp -s target/x86_64-unknown-linux-gnu/kernel/xenstore-stubdom target/xenstore-stubdom-syms || [ ! -e target/xenstore-stubdom.gz ]; then \
	    strip -s -o target/xenstore-stubdom target/x86_64-unknown-linux-gnu/kernel/xenstore-stubdom; \
	    gzip -9nc target/xenstore-stubdom >target/xenstore-stubdom.gz; \
	    cp target/x86_64-unknown-linux-gnu/kernel/xenstore-stubdom target/xenstore-stubdom-syms; fi
	@ls -l target/xenstore-stubdom target/xenstore-stubdom.gz | awk '{ print "==> " $$NF ": " $$5 " bytes" }' >&2

host: have-rust ## the same engine on a plain Linux host: target/xenstored-hosted
	@$(CARGO) build --release --features hosted --bin xenstored-hosted >&2
	@cp target/release/xenstored-hosted target/xenstored-hosted
	@echo "==> target/xenstored-hosted" >&2

tools: have-rust ## the tool for migration streams: target/xs-stream
	@$(CARGO) build --release --features tools --bin xs-stream >&2
	@cp target/release/xs-stream target/xs-stream
	@echo "==> target/xs-stream" >&2

run: kernel ## boot Xen with this kernel as the Xenstore: a shell in dom0 (XEN=4.14|4.17|4.20, CMD='…' runs one command)
	@tests/xen/run.sh

fetch: ## download and prepare what the emulated hosts need (all three releases), so that later runs need no network
	@for release in 4.14 4.17 4.20; do tests/xen/initramfs.sh $$release >/dev/null; done

# A part of `lint` and `test-host`, with the same features for clippy: all share one build.
check: have-rust ## before each commit: format, clippy of the host parts, unit tests, layers, doctests (under 2 minutes once built)
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --features hosted,tools,image-tests,xen-tests,bench -- -D warnings
	$(CARGO) test --lib --test architecture
	$(CARGO) test --doc

test: lint test-host test-xen ## everything: style, host tests, tests on real Xen (under 40 minutes on 2 cores)

# Clippy checks the fuzz targets without a build of libFuzzer: the path replaces the library and need not exist.
lint: have-rust ## formatting and clippy, warnings being errors
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --all-targets --features hosted,tools,image-tests,xen-tests,bench -- -D warnings
	CUSTOM_LIBFUZZER_PATH=/none/libfuzzer.a RUSTFLAGS="--cfg fuzzing" $(CARGO) clippy --manifest-path fuzz/Cargo.toml --target-dir target/fuzz-lint -- -D warnings
	$(KERNEL_CARGO) clippy $(KERNEL_BUILD) -- -D warnings
	$(KERNEL_CARGO) clippy $(KERNEL_BUILD),boot-test -- -D warnings
	$(KERNEL_CARGO) clippy $(KERNEL_BUILD),hostile-guest -- -D warnings

test-host: kernel ## unit and integration tests that need no Xen, and the places in the kernel's image that can panic
	$(CARGO) test --features hosted,tools,image-tests

# Images for tests: one that fails on purpose, one that supports only version 1 of the stream, and a hostile guest.
test-kernels: have-rust
	@for kind in boot-test stream-v1 hostile-guest; do \
	    $(KERNEL_CARGO) build $(KERNEL_BUILD),$$kind --target-dir target/test-kernels >&2 || exit 1; \
	    strip -s -o target/xenstore-stubdom-$$kind target/test-kernels/x86_64-unknown-linux-gnu/kernel/xenstore-stubdom; done

test-xen: kernel test-kernels ## tests on emulated hosts with Xen 4.14, 4.17 and 4.20
	$(CARGO) test --features xen-tests --test xen -- --nocapture --test-threads=1

# A seed always gives the same histories: a report needs only the seed.
simulate: have-rust ## random histories against the model, and costly ones against the bounds: SEEDS=20000, SEEDS=FIRST-LAST or SEED=n
	@PROGRESS=1 SEEDS=$(or $(SEEDS),20000) $(if $(SEED),SEED=$(SEED)) $(CARGO) test --test simulation --test cost -- --nocapture \
	    the_server_does_what_the_model_says no_history_within_the_quotas_exceeds_a_bound_of_work

# Compares the work meter's steps with time. The search maximizes steps, or time (COST_BY=time) to find uncounted work.
cost: have-rust ## the most expensive requests within the quotas: steps, bounds and microseconds (SEEDS=5000, or SEED=n, COST_BY=time)
	@PROGRESS=1 COST_BY=$(or $(COST_BY),steps) SEEDS=$(or $(SEEDS),5000) $(if $(SEED),SEED=$(SEED)) $(CARGO) test --release --test cost -- --nocapture

FUZZ_SECONDS ?= 60
fuzz: have-rust ## each fuzz target (fuzz/run.sh lists them) for FUZZ_SECONDS (60), or only TARGET=…
	fuzz/run.sh $(FUZZ_SECONDS) $(TARGET)

SOAK_SECONDS ?= 1800
soak: test-kernels ## everything together on Xen 4.17 for SOAK_SECONDS (1800): guests, load, attacks, updates, crashes
	tests/xen/soak.sh $(SOAK_SECONDS)

# Downloads the peers before the benchmarks: a download would disturb a measurement.
bench: have-rust ## host part of docs/benchmarks.md against Debian's servers, under 25 minutes on 2 idle cores (ROUNDS=5, ONLY=plain,two,nodes,children,watches,domains or engine)
	@tests/peers/fetch.sh >/dev/null
	@case ",$(or $(ONLY),engine)," in *,engine,*) $(CARGO) bench --features bench --bench engine >&2 ;; esac
	@[ "$(ONLY)" = engine ] || ROUNDS=$(ROUNDS) ONLY=$(ONLY) $(CARGO) bench --features bench --bench host

bench-xen: kernel test-kernels ## this kernel against the C daemon on emulated hosts, under 40 minutes: docs/benchmarks/xen.md (BENCH='--quick|--resume|--report')
	$(CARGO) bench --features bench --bench xen -- $(BENCH)

clean: ## remove target/, downloads included
	rm -rf target

have-rust:
	@command -v cc >/dev/null || { echo "error: no C compiler on this machine (Rust needs it to link): apt-get install gcc" >&2; exit 1; }
	@command -v $(CARGO) >/dev/null || { echo "error: no cargo on this machine. Install Rust $$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer: https://rustup.rs" >&2; exit 1; }

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

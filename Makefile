# Thin on purpose: CMake does the work (CMakePresets.json). `make help` lists the targets.
#   PREFIX=/usr/local  DESTDIR=      where `make install` puts things
#   JOBS=N                           compile and test N at a time (default: the number of cores)
PREFIX  ?= /usr/local
JOBS    ?= $(shell nproc)
# Many tests wait most of their time.
TESTS   ?= $(shell expr $(JOBS) + 1)
# No test needs longer; a test that hangs must not hold up the rest.
TIMEOUT ?= 600

.DEFAULT_GOAL := build
.PHONY: soak torture help build debug asan deps demo test test-release test-asan check-quick bench quality install format clean

help:
	@echo 'make              build the programs into build/bin'
	@echo 'make demo         install packages, build, convert the demo checkpoint, print the report'
	@echo 'make test         install packages, build, every test, then unit and flow tests under ASan+UBSan'
	@echo 'make check-quick  build and run the unit tests (under a minute)'
	@echo 'make bench        benchmarks, as ratios against references measured in the same run'
	@echo 'make quality      every method at every budget on real checkpoints: docs/RESULTS.md (hours; goes on where it stopped)'
	@echo 'make soak         random operations and kill -9 against a daemon (SECONDS=60, SEED= replays a run)'
	@echo 'make torture      every fault point of the store (an hour), then a soak of 10 minutes'
	@echo 'make install      into $$DESTDIR$$PREFIX (default /usr/local)'
	@echo 'make debug|asan   a debug or sanitised build in build-debug, build-asan'
	@echo 'make deps | format | clean'

deps:
	@deploy/install-deps.sh

build: build/CMakeCache.txt
	@cmake --build build -j $(JOBS)

build/CMakeCache.txt:
	@cmake --preset release

debug asan:
	@cmake --preset $@
	@cmake --build build-$@ -j $(JOBS)

demo: deps
	@$(MAKE) --no-print-directory build
	@build/bin/dha demo

test: deps
	@$(MAKE) --no-print-directory test-release
	@$(MAKE) --no-print-directory test-asan

test-release: build
	ctest --test-dir build -j $(TESTS) --timeout $(TIMEOUT) --output-on-failure --no-tests=error

# Leaks inside Open MPI and its libraries are not ours to fix; the suppressions only match with whole stacks.
test-asan: asan
	ASAN_OPTIONS=fast_unwind_on_malloc=0:detect_stack_use_after_return=0 \
	LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0 \
	UBSAN_OPTIONS=print_stacktrace=1 \
	ctest --test-dir build-asan -L '^(unit|flow)$$' -j $(TESTS) --timeout $(TIMEOUT) --output-on-failure --no-tests=error

check-quick: build
	@ctest --test-dir build -L '^unit$$' -j $(JOBS) --timeout 60 --output-on-failure --no-tests=error

bench: build
	@cmake --build build --target bench

# QUALITY: where the conversions live (10 GB); ONLY=headline,orderings,sweep for a part.
QUALITY ?= $(HOME)/.cache/dha/quality
quality: build
	tests/bench/quality/run.py build/bin ../shared $(QUALITY) --only "$(ONLY)"
	@mkdir -p docs/results && cp $(QUALITY)/results.json docs/results/quality.json
	tests/bench/quality/report.py docs/results/quality.json docs

SECONDS ?= 60
soak: build
	SECONDS=$(SECONDS) SEED=$(SEED) DHA_BIN=build/bin tests/soak/soak.py

torture: build
	DHA_TORTURE=1 build/bin/test_store_faults
	DHA_TORTURE=1 DHA_BIN=$(CURDIR)/build/bin OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 python3 tests/crash/crash_matrix.py
	$(MAKE) --no-print-directory soak SECONDS=600

install: build
	@DESTDIR="$(DESTDIR)" cmake --install build --prefix "$(PREFIX)"

format:
	@git ls-files '*.c' '*.h' '*.cc' | xargs clang-format -i

clean:
	rm -rf build build-*

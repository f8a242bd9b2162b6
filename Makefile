# CORM's build. `make help` lists what there is to make; CONTRIBUTING.md says how to work with it.
# Everything lands in $(BUILD)/<config>/, or <config>-clang/ where CC=clang.

VERSION := 0.1.0

config ?= release
BUILD ?= build
PREFIX ?= /usr/local
TIME ?= 60
MUTATE_TIME ?= $(TIME)
SEED ?= 1
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(config),fuzz)
CC := clang
endif
clang := $(findstring clang,$(notdir $(CC)))
OUT := $(BUILD)/$(config)$(if $(filter-out fuzz,$(config)),$(addprefix -,$(clang)))

# ---- what each configuration means ---------------------------------------------------------------

configs := debug release asan ubsan tsan fuzz
ifeq ($(filter $(config),$(configs)),)
$(error config=$(config) is unknown; it is one of: $(configs))
endif
sanitize.asan := -fsanitize=address,undefined -fno-sanitize-recover=all
sanitize.ubsan := -fsanitize=undefined -fno-sanitize-recover=all
sanitize.tsan := -fsanitize=thread
sanitize.fuzz := $(sanitize.asan)
opt.debug := -O0 -g3
opt.release := -O3 -g -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
opt.asan := -O2 -g -fno-omit-frame-pointer $(sanitize.asan)
opt.ubsan := -O1 -g $(sanitize.ubsan)
opt.tsan := -O2 -g $(sanitize.tsan)
opt.fuzz := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link $(sanitize.fuzz)

# ---- compiler and libraries ----------------------------------------------------------------------

# $(call pc,package,fallback): what pkg-config says about linking it, or the plain fallback.
pc = $(or $(shell pkg-config --libs $(1) 2>/dev/null),$(2))

# libcorm needs no more than LIBS_RUN, corm-run LIBS_EDIT besides; a program that uses prep/ needs LIBS_PREP.
LIBS_RUN = $(call pc,libzstd,-lzstd) $(call pc,libxxhash,-lxxhash) $(call pc,libpcre2-8,-lpcre2-8) \
	$(call pc,libutf8proc,-lutf8proc) -lm -pthread
LIBS_EDIT = $(call pc,libedit,-ledit)
LIBS_PREP = $(call pc,libarchive,-larchive) $(call pc,lapacke,-llapacke) \
	$(call pc,openblas,-lopenblas) $(call pc,jansson,-ljansson)
LIBS_SERVE = $(call pc,libmicrohttpd,-lmicrohttpd)
LIBS_TEST = $(call pc,cmocka,-lcmocka) $(LIBS_EDIT)

# Rows of tables leave their last fields zero; snprintf cuts on purpose. With sanitizers gcc warns of
# what is not there, so that WERROR is for the plain configurations.
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla \
	-Wno-missing-field-initializers $(if $(clang),,-Wno-format-truncation) \
	$(if $(filter debug release,$(config)),$(if $(WERROR),-Werror))
INCLUDES := -I. $(shell pkg-config --cflags-only-I openblas lapacke 2>/dev/null)
# Products and sums are fused only where a kernel writes it so: results do not depend on the compiler.
BASE_FLAGS := -std=c11 -D_GNU_SOURCE $(INCLUDES) -fPIC -fvisibility=hidden -ffp-contract=off \
	-pthread -DCORM_VERSION_TEXT=\"$(VERSION)\" $(opt.$(config))
LINK_FLAGS := -Wl,--as-needed -pthread $(sanitize.$(config)) $(LDFLAGS)

# Instruction sets go by file name; a machine of another kind leaves the files out.
machine := $(firstword $(subst -, ,$(or $(shell $(CC) -dumpmachine 2>/dev/null),$(shell uname -m))))
isa.avx2 := -mavx2 -mfma -mf16c
isa.avx512 := $(isa.avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
# What decoders of exponents need besides.
isa_more.exponents_avx2 := -mbmi2 -mpopcnt
isa_more.exponents_avx512 := -mbmi2 -mpopcnt -mavx512vbmi -mavx512vbmi2 -mavx512vpopcntdq
isa_here := $(if $(filter x86_64,$(machine)),avx2 avx512) $(if $(filter aarch64,$(machine)),neon)
isa_off := $(filter-out $(isa_here),avx2 avx512 neon)

# ---- sources -------------------------------------------------------------------------------------

# Which rooms make what. Of format, the reader of checkpoints is prep's alone.
LIB_ROOMS := format format/text kernels kernels/cpu runtime runtime/model
RUN_ROOMS := runtime/run runtime/bench
SERVE_ROOMS := runtime/serve
PREP_ROOMS := prep prep/gguf prep/hf prep/calib
CHECKPOINT := $(wildcard format/safetensors*.c)

sources = $(filter-out $(foreach i,$(isa_off),%_$(i).c),$(wildcard $(addsuffix /*.c,$(1))))
MAINS := prep/corm_prep.c runtime/run/corm_run.c runtime/serve/corm_serve.c
LIB_SRC := $(filter-out $(CHECKPOINT),$(call sources,$(LIB_ROOMS)))
RUN_SRC := $(filter-out $(MAINS),$(call sources,$(RUN_ROOMS)))
# What corm-serve takes of corm-run: the options of the machine, and writing JSON.
SERVE_SRC := $(filter-out $(MAINS),$(call sources,$(SERVE_ROOMS)))
SERVE_ALSO := runtime/run/run_machine.c runtime/run/run_familiar.c runtime/run/run_json.c
PREP_SRC := $(CHECKPOINT) $(filter-out $(MAINS),$(call sources,$(PREP_ROOMS)))
ALL_SRC := $(LIB_SRC) $(RUN_SRC) $(SERVE_SRC) $(PREP_SRC)
PROGRAMS := $(OUT)/corm-prep $(OUT)/corm-run $(OUT)/corm-serve
# Tests mirror the rooms; a test is found by the name of its file.
TEST_SRC := $(sort $(shell find tests -name 'test_*.c'))
SYNTH_SRC := $(filter-out tests/synth/synth.c tests/synth/test_%,$(wildcard tests/synth/*.c))
TEST_UTIL := $(wildcard tests/util/*.c)
TESTS := $(patsubst tests/%.c,$(OUT)/tests/%,$(filter-out $(TEST_UTIL),$(TEST_SRC)))
SHELL_TESTS := $(sort $(wildcard tests/e2e/e2e_*.sh))
# Those that take longest start first, so that none of them is left to run alone at the end.
slow_tests := e2e_device test_tier test_cuda test_calib_engine test_cuda_shapes e2e_prep e2e_calib e2e_agents e2e_limits \
    e2e_run e2e_serve e2e_parley e2e_serve_tools test_forward test_engine
slow_first = $(foreach t,$(slow_tests),$(filter %/$t %/$t.sh,$1)) \
    $(filter-out $(addprefix %/,$(slow_tests) $(addsuffix .sh,$(slow_tests))),$1)
FUZZERS := $(patsubst tests/%.c,$(OUT)/%,$(wildcard tests/fuzz/fuzz_*.c))
MUTATE_OBJ := $(patsubst %.c,$(OUT)/%.o,$(wildcard tests/fuzz/mutate*.c))
EXAMPLES := $(patsubst docs/%.c,$(OUT)/docs/%,$(wildcard docs/*.c))

objects = $(patsubst %,$(OUT)/%.o,$(basename $(1)))
LIB_OBJ := $(call objects,$(LIB_SRC))
# The page of corm-serve, made into C source.
PAGE := runtime/serve/page
PAGE_OBJ := $(OUT)/$(PAGE)_files.o
ALL_OBJ := $(call objects,$(ALL_SRC)) $(PAGE_OBJ)

# ---- CUDA: found, or left out --------------------------------------------------------------------

CUDA ?= auto
CU_SRC := $(wildcard kernels/cuda/*.cu)
NVCC := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
# Compiled once for all configurations: what is measured and sanitized is the host's code.
CUDA_OUT := $(BUILD)/cuda
ifeq ($(CU_SRC),)
cuda_note := left out (there is no kernels/cuda/*.cu)
else ifeq ($(CUDA),0)
cuda_note := left out (CUDA=0)
else ifeq ($(NVCC),)
cuda_note := left out (no nvcc found; install the CUDA Toolkit or set NVCC=)
else
# Real code for these, as far as this nvcc knows them, and PTX of the last for what comes later.
cuda_known := $(patsubst sm_%,%,$(filter sm_%,$(shell $(NVCC) --list-gpu-code 2>/dev/null)))
cuda_archs := $(filter $(or $(cuda_known),%),75 80 86 89 90 100 120)
# CUDA_ENDS=1: the oldest and the newest alone, in a third of the time.
CUDA_ARCH ?= $(if $(CUDA_ENDS),$(firstword $(cuda_archs)) $(filter-out $(firstword $(cuda_archs)),$(lastword $(cuda_archs))),$(cuda_archs))
cuda_note := built with $(NVCC) for $(CUDA_ARCH)
CU_OBJ := $(patsubst %.cu,$(CUDA_OUT)/%.o,$(CU_SRC))
LIB_OBJ += $(CU_OBJ)
ALL_OBJ += $(CU_OBJ)
BASE_FLAGS += -DCORM_CUDA=1
LIBS_CUDA := -L$(abspath $(dir $(NVCC))../lib64) -lcudart_static -ldl -lrt -lstdc++
LIBS_RUN += $(LIBS_CUDA)
endif
# A switch that leaves out a codec would compute nothing for it.
CXX_FLAGS := -std=c++17 -O2 -g -D_GNU_SOURCE -I. -fPIC -fvisibility=hidden -Wall -Werror=switch \
	-Wno-unknown-pragmas -fno-exceptions -fno-rtti -fno-threadsafe-statics
NVCC_FLAGS := -std=c++17 -O3 -I. --threads 0 \
	$(foreach a,$(CUDA_ARCH),-gencode arch=compute_$a,code=sm_$a) \
	-gencode arch=compute_$(lastword $(CUDA_ARCH)),code=compute_$(lastword $(CUDA_ARCH)) \
	-Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wno-unknown-pragmas,-fno-exceptions,-fno-threadsafe-statics

# ---- targets for people --------------------------------------------------------------------------

.PHONY: all help demo demo-chat test test-cuda cuda-bundle bench bench-cuda fuzz fuzz-files lint format check-all install uninstall clean info deps note
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:

# What runs after dependencies were installed runs in a new make, which then finds them.
again = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' $(1) $(patsubst $(OUT)/%,%,$(2)))

##@ Using it
all: note $(PROGRAMS) $(OUT)/libcorm.a $(OUT)/libcorm.so $(OUT)/libcorm.pc ## Build the programs and the library

# demo_archive MODEL: convert one of the trained models and verify the archive. Of text, a part that takes
# seconds; by itself convert takes more, and predicts a little better.
define demo_archive
	@CC='$(CC)' tests/deps.sh build
	@$(again) all
	@mkdir -p $(BUILD)/demo && rm -f $(BUILD)/demo/$1.corm
	$(OUT)/corm-prep convert tests/models/$1 -o $(BUILD)/demo/$1.corm --calibrate --calib-tokens 3072
	$(OUT)/corm-prep verify $(BUILD)/demo/$1.corm
endef

demo: ## Convert and calibrate the demo checkpoint, verify the archive, and let it tell a story
	$(call demo_archive,fable)
	$(OUT)/corm-run $(BUILD)/demo/fable.corm -p "Once upon a time" -n 128 --seed 7 --temp 0.7 --echo --stats
	$(OUT)/corm-prep report $(BUILD)/demo/fable.corm --brief

demo-chat: ## Convert the small model that takes turns, and chat: try "Tell me a story about Lucy and a frog."
	$(call demo_archive,parley)
	$(OUT)/corm-run chat $(BUILD)/demo/parley.corm

install: all ## Install under PREFIX (/usr/local), below DESTDIR where given
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin include lib/pkgconfig share/doc/corm share/corm)
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 runtime/corm.h runtime/corm_grammar.h $(DESTDIR)$(PREFIX)/include
	install -m 644 $(OUT)/libcorm.a $(DESTDIR)$(PREFIX)/lib
	install -m 755 $(OUT)/libcorm.so $(DESTDIR)$(PREFIX)/lib/libcorm.so.$(VERSION)
	ln -sf libcorm.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(PREFIX)/lib/libcorm.so
	install -m 644 $(OUT)/libcorm.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 644 LICENSE $(wildcard README.md docs/*.md) $(DESTDIR)$(PREFIX)/share/doc/corm
	cp -R calib-data $(DESTDIR)$(PREFIX)/share/corm
	chmod -R u=rwX,go=rX $(DESTDIR)$(PREFIX)/share/corm

uninstall: ## Remove what install put there
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/corm-prep bin/corm-run bin/corm-serve include/corm.h include/corm_grammar.h lib/libcorm.a \
	    lib/libcorm.so lib/$(SONAME) lib/libcorm.so.$(VERSION) lib/pkgconfig/libcorm.pc)
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/corm $(DESTDIR)$(PREFIX)/share/corm

##@ Working on it
test: ## Build and run all tests, or those named in T="test_base e2e_run", but not those in SKIP=""
	@CC='$(CC)' tests/deps.sh build test
	@$(again) _test

test-cuda: ## Test and measure the CUDA backend on this machine's device, in ten minutes; installs nothing
	@$(again) all $(OUT)/synth $(OUT)/tests/kernels/cuda/device
	@CORM_BUILD=$(OUT) tests/cuda/session.sh $(OUT) $(BUILD)/session

cuda-bundle: ## Pack what test-cuda needs, for a machine that has a device and no compiler
	@$(again) all $(OUT)/synth $(OUT)/tests/kernels/cuda/device
	@tests/cuda/bundle.sh $(OUT) $(BUILD)/corm-session.tar.xz

bench-cuda: ## Measure this machine's device: memory, resident, and experts in part of it beside B0
	@CC='$(CC)' tests/deps.sh build test
	@$(again) all $(OUT)/synth $(OUT)/tests/kernels/cuda/device
	@tests/kernels/cuda/bench.sh $(OUT) $(BUILD)/bench-cuda

lint: ## Check style, include directions, library homes, headers, global state
	@CC='$(CC)' tests/deps.sh build lint
	@mkdir -p $(BUILD)
	@$(again) all >$(BUILD)/lint.log 2>&1 || { cat $(BUILD)/lint.log; exit 1; }
	@CC='$(CC)' INCLUDES='$(INCLUDES)' tests/lint.sh $(OUT)

format: ## Rewrite the sources in the style of .clang-format
	@tests/deps.sh lint
	find format kernels runtime prep tests docs -name '*.[ch]' -o -name '*.cu' -o -name '*.inc' | xargs clang-format-16 -i

bench: ## Measure speed and what each mechanism brings, beside the published figures (BENCH_BIG=1: more)
	@CC='$(CC)' tests/deps.sh build test
	@$(again) all $(OUT)/synth
	@tests/bench.sh $(OUT) $(BUILD)/bench

.PHONY: bench-quality
bench-quality: ## Measure what codecs lose, perplexity and KL, also with --loss: TEXT="file ..." in place of the project's own
	@CC='$(CC)' tests/deps.sh build
	@$(again) all $(OUT)/tests/quality/divergence
	@tests/quality/quality.sh $(OUT) $(BUILD)/bench-quality $(TEXT)

.PHONY: bench-shapes
bench-shapes: ## Measure published shapes under a limit of 8 GB beside what the disk allows: SHAPES=gpt-oss-20b
	@CC='$(CC)' tests/deps.sh build
	@$(again) all $(OUT)/synth
	@tests/limits/shapes.sh $(OUT) $(BUILD)/bench $(SHAPES)

.PHONY: bench-serve
bench-serve: ## Measure what corm-serve's users feel, all or some: PARTS="turns together prompt"
	@CC='$(CC)' tests/deps.sh build test
	@$(again) all $(OUT)/synth
	@tests/limits/serve.sh $(OUT) $(BUILD)/bench $(PARTS)

.PHONY: check-clients
check-clients: ## Talk to corm-serve with openai and anthropic from PyPI, ALL=1: more of them, and stress
	@CC='$(CC)' tests/deps.sh build test
	@$(again) all
	@tests/clients/run.sh $(OUT) $(BUILD)/clients $(if $(ALL),all)

.PHONY: check-page
check-page: ## Use the page of corm-serve in Debian's Chromium
	@CC='$(CC)' tests/deps.sh build test page
	@$(again) all $(OUT)/synth
	@tests/page/run.sh $(OUT) $(BUILD)/page

.PHONY: soak
soak: ## See that the memory budget is kept under a real limit: MINUTES=10 MODEL=a.corm TEXT=a.txt
	@CC='$(CC)' tests/deps.sh build
	@$(again) all $(OUT)/synth
	@tests/limits/soak.sh $(OUT) $(BUILD)/bench $(or $(MINUTES),10) $(MODEL) $(TEXT)

# Without LLAMA_PYTHON, a Python of its own gets the newest llama.cpp that PyPI has, compiled here.
bench-llama: ## Compare with llama.cpp, which is fetched and compiled; tests/llama/README.md says how
	@CC='$(CC)' tests/deps.sh build $(if $(LLAMA_PYTHON),,llama)
	@$(again) all $(OUT)/synth
	@CC='$(CC)' LLAMA_PYTHON='$(LLAMA_PYTHON)' LLAMA='$(LLAMA)' tests/llama/bench.sh $(OUT) \
	    $(BUILD)/bench-llama $(LLAMA_ARGS)

.PHONY: mca
mca: ## What the loops over weights cost in arithmetic alone, by LLVM's models of processors
	@CC='$(CC)' tests/deps.sh build mca
	@$(again) all
	@python3 tests/mca.py $(OUT)

fuzz: ## Run each fuzz target for TIME=60 seconds, two at a time, and the mutator beside them
	@CC=clang tests/deps.sh build test clang
	@$(again) config=release all $(BUILD)/release$(addprefix -,$(clang))/mutate
	@$(again) config=fuzz MUTATE=$(BUILD)/release$(addprefix -,$(clang)) _fuzz

fuzz-files: ## Mutate N=2000 archives and checkpoints, from SEED=1 on; all commands read each
	@CC='$(CC)' tests/deps.sh build test
	@$(again) all $(OUT)/mutate
	@$(OUT)/mutate $(if $(sanitize.$(config)),-a,-b) $(OUT) -A -j $(JOBS) -n $(or $(N),2000) -s $(SEED) \
	    -o $(BUILD)/found

check-all: ## All that CI runs: both compilers, lint, tests, sanitizers, valgrind, fuzzing
	@.ci/run

deps: ## Install the Debian packages that building and testing need
	@tests/deps.sh build test

clean: ## Remove everything built
	rm -rf $(BUILD)

info: ## Show what was detected
	@echo 'version   $(VERSION)'
	@echo 'config    $(config) (of: $(configs)) in $(OUT)'
	@echo 'compiler  $(CC): $(shell $(CC) --version 2>/dev/null | head -n 1)'
	@echo 'machine   $(machine), instruction sets: $(or $(isa_here),none)'
	@echo 'CUDA      $(cuda_note)'
	@echo 'flags     $(BASE_FLAGS) $(CFLAGS)'
	@echo 'link      corm-run: $(LIBS_RUN) $(LIBS_EDIT)'
	@echo '          corm-serve: $(LIBS_RUN) $(LIBS_SERVE)'
	@echo '          corm-prep: $(LIBS_RUN) $(LIBS_PREP)'

help: ## Show this
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} \
	    /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@printf '\nSettings: config=%s CC=gcc|clang V=1\n' '$(subst $() ,|,$(configs))'
	@echo '          CUDA=0 CUDA_ARCH=89 BUILD=build CFLAGS= LDFLAGS= WERROR=1'

# ---- rules ---------------------------------------------------------------------------------------

note:
	@echo 'CUDA: $(cuda_note)'

# Remade only when the flags change; then everything that was compiled with the old ones is. The first
# time, and then, it is checked that there is something to build with.
flags_text := $(CC) $(BASE_FLAGS) $(WARN) $(CPPFLAGS) $(CFLAGS) $(LINK_FLAGS)
.PHONY: _flags
$(OUT)/flags: _flags
	@mkdir -p $(@D)
	@echo '$(flags_text)' | cmp -s - $@ || \
	    { CC='$(CC)' tests/deps.sh --check build && echo '$(flags_text)' >$@; }

$(OUT)/%.o: %.c $(OUT)/flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_FLAGS) $(WARN) $(isa.$(lastword $(subst _, ,$*))) $(isa_more.$(notdir $*)) \
	    $(EXTRA) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(OUT)/$(PAGE)_files.c: $(wildcard $(PAGE)/*)
	$(call say,PAGE,$@)
	@mkdir -p $(@D)
	$(Q)$(PAGE)/embed.sh $(PAGE) >$@
$(PAGE_OBJ): $(OUT)/$(PAGE)_files.c $(OUT)/flags
	$(call say,CC,$<)
	$(Q)$(CC) $(BASE_FLAGS) $(WARN) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

.PHONY: _cuda_flags
$(CUDA_OUT)/flags: _cuda_flags
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVCC_FLAGS) $(CXX) $(CXX_FLAGS)' | cmp -s - $@ || \
	    echo '$(NVCC) $(NVCC_FLAGS) $(CXX) $(CXX_FLAGS)' >$@
$(CUDA_OUT)/%.o: %.cu $(CUDA_OUT)/flags
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCC_FLAGS) -MMD -MP -c $< -o $@

# The same sources as ordinary C++, on a device that is coroutines. AddressSanitizer is told of their stacks,
# and makes them ten times slower: tests of real geometry, where little of the arithmetic is done, have an object with
# it; all others, and clang's, share one without a sanitizer.
EMULATED := $(CUDA_OUT)/emulated.o
EMULATED_SANITIZED := $(if $(clang)$(filter-out asan ubsan,$(config)),$(CUDA_OUT),$(OUT))/emulated.o
EMULATED_FLAGS = $(CXX_FLAGS) -U_FORTIFY_SOURCE -ffp-contract=off -fno-stack-protector -Wno-unused-function
$(CUDA_OUT)/emulated.o: tests/kernels/cuda/emulated.cpp $(CUDA_OUT)/flags
	$(call say,C++,$<)
	$(Q)$(CXX) $(EMULATED_FLAGS) -MMD -MP -c $< -o $@
$(OUT)/emulated.o: tests/kernels/cuda/emulated.cpp $(CUDA_OUT)/flags $(OUT)/flags
	$(call say,C++,$<)
	$(Q)$(CXX) $(EMULATED_FLAGS) -fno-omit-frame-pointer $(sanitize.$(config)) -MMD -MP -c $< -o $@

# Archives are made anew, so that no object of a removed source stays in them.
$(OUT)/libcorm.a: $(LIB_OBJ)
$(OUT)/libeverything.a: $(ALL_OBJ)
$(OUT)/tests/libutil.a: $(call objects,$(TEST_UTIL) $(SYNTH_SRC))
$(OUT)/%.a: $(OUT)/flags
	$(call say,AR,$@)
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)ar rcsD $@ $(filter %.o,$^)

SONAME := libcorm.so.$(firstword $(subst ., ,$(VERSION)))
$(OUT)/libcorm.so: $(LIB_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,$(SONAME) $(if $(sanitize.$(config)),,-Wl,-z,defs) $(LINK_FLAGS) $(filter %.o,$^) $(LIBS_RUN) -o $@
	@ln -sf libcorm.so $(OUT)/$(SONAME)

# One way to link a program: objects and archives as prerequisites, libraries in LIBS.
link = $(call say,LD,$@) $(newline)	@mkdir -p $(@D)$(newline)	$(Q)$(CC) $(LINK_FLAGS) \
	$(filter %.o,$^) $(filter %.a,$^) $(LIBS) -o $@
define newline


endef

$(OUT)/corm-run: LIBS = $(LIBS_EDIT) $(LIBS_RUN)
$(OUT)/corm-run: $(OUT)/runtime/run/corm_run.o $(call objects,$(RUN_SRC)) $(OUT)/libcorm.a
	$(link)
$(OUT)/corm-serve: LIBS = $(LIBS_SERVE) $(LIBS_RUN)
$(OUT)/corm-serve: $(OUT)/runtime/serve/corm_serve.o $(call objects,$(SERVE_SRC) $(SERVE_ALSO)) $(PAGE_OBJ) $(OUT)/libcorm.a
	$(link)
$(OUT)/corm-prep: LIBS = $(LIBS_PREP) $(LIBS_RUN)
$(OUT)/corm-prep: $(OUT)/prep/corm_prep.o $(OUT)/libeverything.a
	$(link)
$(OUT)/docs/%: LIBS = $(LIBS_RUN)
$(OUT)/docs/%.o: EXTRA = -Iruntime
$(EXAMPLES): $(OUT)/docs/%: $(OUT)/docs/%.o $(OUT)/libcorm.a
	$(link)
$(OUT)/tests/quality/divergence: LIBS = $(LIBS_RUN)
$(OUT)/tests/quality/divergence: $(OUT)/tests/quality/divergence.o $(OUT)/libcorm.a
	$(link)
$(OUT)/synth: LIBS = $(LIBS_PREP) $(LIBS_RUN)
$(OUT)/synth: $(OUT)/tests/synth/synth.o $(call objects,$(SYNTH_SRC)) $(OUT)/libeverything.a
	$(link)
$(OUT)/mutate: LIBS = $(LIBS_TEST) $(LIBS_SERVE) $(LIBS_PREP) $(LIBS_RUN)
$(OUT)/mutate: $(MUTATE_OBJ) $(OUT)/tests/libutil.a $(OUT)/libeverything.a
	$(link)
$(OUT)/tests/%: LIBS = $(LIBS_TEST) $(LIBS_SERVE) $(LIBS_PREP) $(LIBS_RUN)
$(OUT)/tests/fuzz/test_mutate: $(filter-out %/mutate.o,$(MUTATE_OBJ))
$(TESTS): $(OUT)/tests/%: $(OUT)/tests/%.o $(OUT)/tests/libutil.a $(OUT)/libeverything.a
	$(link)
comma := ,
wrap_cuda := $(patsubst %,-Wl$(comma)--wrap=backend_cuda_%,open devices scratch_bytes)
on_emulated := $(addprefix $(OUT)/tests/,kernels/cuda/test_cuda_shapes runtime/test_engine_device \
    runtime/test_device_counts)
$(OUT)/tests/kernels/cuda/test_cuda $(OUT)/tests/runtime/test_tier: $(EMULATED)
# They open it by the name of the real one.
$(on_emulated): $(EMULATED_SANITIZED)
$(on_emulated): LIBS = $(wrap_cuda) $(LIBS_TEST) $(LIBS_SERVE) $(LIBS_PREP) $(LIBS_RUN)
# corm-run on devices that are not there.
$(OUT)/tests/kernels/cuda/run_device: LIBS = $(wrap_cuda) $(LIBS_EDIT) $(LIBS_RUN)
$(OUT)/tests/kernels/cuda/run_device: $(OUT)/tests/kernels/cuda/run_device.o $(OUT)/runtime/run/corm_run.o \
    $(call objects,$(RUN_SRC)) $(OUT)/tests/libutil.a $(OUT)/libcorm.a $(EMULATED)
	$(link)
$(OUT)/tests/kernels/cuda/device: $(OUT)/tests/kernels/cuda/device.o $(OUT)/tests/libutil.a $(OUT)/libeverything.a
	$(link)
$(OUT)/fuzz/%: LIBS = -fsanitize=fuzzer $(LIBS_EDIT) $(LIBS_SERVE) $(LIBS_PREP) $(LIBS_RUN)
$(FUZZERS): $(OUT)/fuzz/%: $(OUT)/tests/fuzz/%.o $(OUT)/tests/libutil.a $(OUT)/libeverything.a
	$(link)

$(OUT)/libcorm.pc: _flags
	@mkdir -p $(@D)
	@printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$${prefix}/lib' 'includedir=$${prefix}/include' '' \
	    'Name: libcorm' 'Description: Run sparse mixture-of-experts models larger than memory' \
	    'Version: $(VERSION)' 'Requires.private: libzstd libxxhash libpcre2-8 libutf8proc' \
	    'Cflags: -I$${includedir}' 'Libs: -L$${libdir} -lcorm' 'Libs.private: $(strip $(LIBS_CUDA) -lm -pthread)' >$@

.PHONY: programs _test _fuzz
programs: all $(EXAMPLES) $(TESTS) $(OUT)/tests/kernels/cuda/run_device $(OUT)/synth $(OUT)/mutate
chosen = $(filter-out $(addprefix %/,$(SKIP:.sh=)),$(if $(T),$(filter $(addprefix %/,$(T:.sh=)),$(1)),$(1)))
no_test = $(filter-out $(notdir $(TESTS) $(SHELL_TESTS:.sh=)),$(T:.sh=) $(SKIP:.sh=))
_test: $(if $(no_test),$(error no such test: $(no_test))) all $(EXAMPLES) $(call chosen,$(TESTS)) \
    $(if $(filter %e2e_device,$(call chosen,$(SHELL_TESTS:.sh=))),$(addprefix $(OUT)/,synth tests/kernels/cuda/run_device \
        tests/kernels/cuda/device)) \
    $(if $(filter %e2e_reuse,$(call chosen,$(SHELL_TESTS:.sh=))),$(OUT)/synth)
	@CORM_BUILD=$(OUT) CORM_TEST_QUICK=$(if $(findstring CORM_TEST_QUICK,$(CPPFLAGS)),1) tests/run.sh $(if $(WRAP),-w '$(WRAP)') \
	    $(call slow_first,$(call chosen,$(TESTS)) $(addsuffix .sh,$(call chosen,$(SHELL_TESTS:.sh=))))
_fuzz: mutator = $(MUTATE)/mutate -b $(MUTATE) -a $(OUT) -s $(SEED) -t $(MUTATE_TIME) -o $(OUT)/fuzz/found
_fuzz: $(FUZZERS) $(PROGRAMS)
	@tests/fuzz/run.sh $(if $(MUTATE),-m '$(mutator)') $(TIME) $(FUZZERS)

-include $(shell find $(wildcard $(OUT) $(CUDA_OUT)) /dev/null -name '*.d')

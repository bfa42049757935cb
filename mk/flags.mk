# Flags, by compiler and variant. See design notes in ARCHITECTURE.md.
comma := ,
VARIANT := $(notdir $(firstword $(CC)))$(if $(SAN),-$(subst $(comma),-,$(SAN)))
VARIANT := $(VARIANT)$(if $(SMALL),-small)$(if $(FUZZ),-fuzz)$(if $(COV),-cov)$(if $(CUDA),-cuda)
BUILD := $(BUILD_ROOT)/$(VARIANT)
OS := $(shell uname -s)
ARCH := $(shell uname -m)

IS_CLANG := $(shell $(CC) --version 2>/dev/null | grep -c clang)
WARN := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
CPPFLAGS := -Iinclude -Isrc -MMD -MP
ifeq ($(OS),Darwin)
BREW := $(shell brew --prefix 2>/dev/null)
CPPFLAGS += -D_DARWIN_C_SOURCE $(if $(BREW),-I$(BREW)/include)
else
CPPFLAGS += -D_GNU_SOURCE
endif
ifneq ($(SMALL),)
CPPFLAGS += -DDS4_SMALL_LIMITS
endif
OPT ?= -O2
CFLAGS := -std=c17 $(OPT) -g $(WARN) -fno-math-errno -ffp-contract=off -fstack-protector-strong \
	-fno-delete-null-pointer-checks -fPIE -Wframe-larger-than=16384 $(EXTRA_CFLAGS)
LDFLAGS := -pie $(EXTRA_LDFLAGS)
ifeq ($(OS),Darwin)
LDFLAGS += $(if $(BREW),-L$(BREW)/lib)
endif
LDLIBS := -ljansson -ledit -lxxhash -lpthread -lm
ifeq ($(OS),Linux)
LDFLAGS += -Wl,-z,relro,-z,now,-z,noexecstack
# clang has this one for x86-64 only, and warns elsewhere.
CFLAGS += $(if $(filter x86_64,$(ARCH))$(filter 0,$(IS_CLANG)),-fstack-clash-protection)
ifeq ($(ARCH),x86_64)
CFLAGS += -fcf-protection
endif
endif
ifeq ($(IS_CLANG),0)
CFLAGS += -ftrivial-auto-var-init=zero
endif
ifneq ($(SAN),)
# What a sanitizer adds makes gcc warn where it does not otherwise: there, warnings do not stop the build.
CFLAGS += -Wno-error -Wno-sign-conversion -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS += -fsanitize=$(SAN)
else ifeq ($(FUZZ),)
CPPFLAGS += -D_FORTIFY_SOURCE=3
endif
ifneq ($(FUZZ),)
# Loops with checks in them are not always unrolled, of which clang warns.
CFLAGS += -Wno-pass-failed -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
LDFLAGS += -fsanitize=address,undefined
endif
ifneq ($(COV),)
CFLAGS += --coverage
LDFLAGS += --coverage
endif

# Files compiled for an instruction set are named by it, and empty on other machines; the rest of the program decides at
# run time. The encoders of src/quant give the same bytes everywhere; their vectors cross no call that is not inlined.
# $2: the machine, if it is not this one.
x86_flags = $(if $(findstring _avx2.c,$1),-mavx2 -mfma -mf16c -mbmi2 -ffp-contract=fast) \
	$(if $(findstring _avx512.c,$1)$(findstring _avx512vnni.c,$1),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma \
	-mf16c -mbmi2 -ffp-contract=fast) $(if $(findstring _avx512vnni.c,$1),-mavx512vnni)
# gcc's stack for finding uses after a return is aligned to 32 bytes; registers of 64 spilled there fault.
ifneq ($(and $(findstring address,$(SAN)),$(filter 0,$(IS_CLANG))),)
x86_flags += $(if $(findstring _avx512,$1),--param=asan-use-after-return=0)
endif
arm_flags = $(if $(findstring _neondot.c,$1),-march=armv8.2-a+dotprod) \
	$(if $(findstring _neoni8mm.c,$1),-march=armv8.2-a+dotprod+i8mm)
variant_flags = $(if $(filter x86_64,$(or $2,$(ARCH))),$(x86_flags)) \
	$(if $(filter aarch64 arm64,$(or $2,$(ARCH))),$(arm_flags)) \
	$(if $(findstring src/quant/,$1),-ffp-contract=off -Wno-psabi)

# The thread sanitizer slows inner loops tenfold or more, so it leaves out leaves that only compute: nothing in them
# waits or signals, and that no result depends on the number of threads is tested bit for bit.
ifeq ($(SAN),thread)
LEAVES := src/quant/% src/ops/ref/% src/ops/rows.c %_avx2.c %_avx512.c %_avx512vnni.c %_neon.c %_neondot.c \
	%_neoni8mm.c
leaf_flags = $(if $(filter $(LEAVES),$(filter-out %/backend.c,$1)),-fno-sanitize=thread)
endif

# With checks of undefined behaviour clang takes two minutes for the vectors of these files. What fuzzers are given
# seldom comes so far, and the tests, too, run with those checks.
ifneq ($(FUZZ),)
LEAVES := $(addprefix src/ops/cpu/%,_avx2.c _avx512.c _avx512vnni.c)
leaf_flags = $(if $(filter $(LEAVES),$1),-fno-sanitize=undefined)
endif

# A change of flags rebuilds the variant.
FLAG_TEXT = $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(LDLIBS) $(LEAVES)
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FLAG_TEXT)' | cmp -s - $@ || echo '$(FLAG_TEXT)' > $@
FORCE:
.PHONY: FORCE

# The commit goes into one object, which is built anew when it changes.
COMMIT := $(if $(wildcard .git),$(shell GIT_OPTIONAL_LOCKS=0 git describe --always --dirty --exclude='*' 2>/dev/null))
commit_flags = $(if $(filter src/main.c,$1),-DDS4_COMMIT='"$(COMMIT)"')
$(BUILD)/src/main.o: $(BUILD)/commit
$(BUILD)/commit: FORCE
	@mkdir -p $(@D)
	@echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' >$@

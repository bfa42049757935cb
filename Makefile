# ds4: build, check, tidy. GNU Make 3.81 features only. Variants live side by side in build/<variant>:
#   make                 the program, left at ./ds4
#   make check           all tests; last line "N passed, N failed"
#   make SAN=address,undefined check     the same under sanitizers (SAN=thread too)
#   make SMALL=1 check   the same with tiny limits, which gives bugs a chance
#   make tidy            the rules of the house, by script
#   make bench, make fuzz, make compdb, make vocab.gguf, make install
# V=1 shows the commands.
CC ?= cc
Q := $(if $(V),,@)
BUILD_ROOT ?= build
all: ds4
include mk/flags.mk
include mk/gpu.mk

SRCS := $(wildcard src/*/*.c src/*/*/*.c)
OBJS := $(SRCS:%.c=$(BUILD)/%.o)
LIB := $(BUILD)/libds4.a

ds4: $(BUILD)/ds4
	@cp -f $< $@

$(BUILD)/ds4: $(BUILD)/src/main.o $(LIB)
	@echo 'link $@'
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(LIB): $(OBJS) $(GPU_OBJS)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '$(notdir $(firstword $(CC))) $<'
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(call variant_flags,$<) $(call leaf_flags,$<) $(call commit_flags,$<) -c -o $@ $<

# The parts of the page are taken into the object by the assembler, which writes no list of what it read.
$(BUILD)/src/serve/page/page.o: $(wildcard src/serve/page/*.html src/serve/page/*.css src/serve/page/*.js)

include mk/test.mk
include mk/extra.mk

clean:
	rm -rf $(BUILD_ROOT) ds4

-include $(shell find $(BUILD_ROOT) -name '*.d' 2>/dev/null)
.PHONY: all clean
.SECONDARY:

/* Coverage of the compiled core for libFuzzer, from gcc's -fsanitize-coverage=trace-pc,trace-cmp.

   libFuzzer dropped trace-pc, the only coverage that gcc has. So here each basic block counts in one
   of PLACES counters, which are registered as if a compiler had laid them out. Comparisons go to
   libFuzzer's own functions: atheris keeps their names to itself, so it hands over their addresses. */

#include <stdint.h>

#define PLACES 65536

typedef struct {
  uintptr_t pc, flags;
} Place;

static uint8_t counters[PLACES];
static Place places[PLACES];

void __sanitizer_cov_trace_pc(void) {
  uintptr_t pc = (uintptr_t)__builtin_return_address(0);
  counters[pc % PLACES]++;
}

/* Hands the counters, and as many places as there are counters, to libFuzzer. */
void register_counters(void (*counters_init)(uint8_t *, uint8_t *),
                       void (*places_init)(const Place *, const Place *)) {
  for (uintptr_t i = 0; i < PLACES; i++)
    places[i].pc = (uintptr_t)&counters[i];
  counters_init(counters, counters + PLACES);
  places_init(places, places + PLACES);
}

/* A tail call each, so that libFuzzer sees the comparison's place as its caller. */
#define COMPARISON(name, type)                      \
  void (*name)(type, type);                         \
  void __sanitizer_cov_##name(type a, type b) {     \
    if (name)                                       \
      name(a, b);                                   \
  }

COMPARISON(trace_cmp1, uint8_t)
COMPARISON(trace_cmp2, uint16_t)
COMPARISON(trace_cmp4, uint32_t)
COMPARISON(trace_cmp8, uint64_t)
COMPARISON(trace_const_cmp1, uint8_t)
COMPARISON(trace_const_cmp2, uint16_t)
COMPARISON(trace_const_cmp4, uint32_t)
COMPARISON(trace_const_cmp8, uint64_t)

/* What gcc emits for floating point, which libFuzzer does not look at. */
void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a, (void)b; }

void (*trace_switch)(uint64_t, uint64_t *);
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases) {
  if (trace_switch)
    trace_switch(value, cases);
}

// Attention with heads of 80 elements. Floors, shapes and reasons: attention_prompt.cuh, attention_decode.cuh.
//
// budget: registers 255, shared 62024
// budget attention_narrow_*: registers 128, shared 43520
// sass: LDSM LDGSTS.E.BYPASS.128 HMMA.16816
#include "attention_kernels.cuh"

ATTENTION(80, 2, 2)

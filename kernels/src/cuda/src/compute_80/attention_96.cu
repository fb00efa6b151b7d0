// Attention with heads of 96 elements. Floors, shapes and reasons: attention_prompt.cuh, attention_decode.cuh.
//
// budget: registers 255, shared 74312
// budget attention_narrow_*: registers 136, shared 52224
// sass: LDSM LDGSTS.E.BYPASS.128 HMMA.16816
#include "attention_kernels.cuh"

ATTENTION(96, 2, 2)

// 8-bit codes need no shift.
// Requires: nothing.
// Implements: shift.
// Provides: SHIFT.

const SHIFT = 0u;

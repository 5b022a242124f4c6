// The shift of 8-bit codes, which need none.
// Requires: nothing.
// Implements: shift.
// Provides: SHIFT.

const SHIFT = 0u;

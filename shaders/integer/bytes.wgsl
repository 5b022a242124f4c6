// 8-bit codes need no shift.
// Requires: nothing. Provides: SHIFT. Twin: integer/nibbles.

const SHIFT = 0u;

// The number of a lane in its subgroup, which the entry point sets.
// Requires: nothing.
// Provides: subgroup_lane.

var<private> subgroup_lane: u32;

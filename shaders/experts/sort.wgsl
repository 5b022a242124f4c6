// Sorts the chosen experts into a list: the rows of each expert in a run that starts at a multiple of
// `unit`, in their order.
// Requires: lib/dispatch, const EXPERTS.
// Provides: `main`, one workgroup; an invocation takes each WORKGROUP-th expert.
// Workgroup memory: a word for each of EXPERTS experts.
//
// Memory:
//   choices  [rows, top] of three words, from word choices_at on: the expert, which experts/choose wrote,
//            and its place in the list, which is written
//   list     entries of a row and an expert, from entry list_at on; NO_EXPERT fills runs and what is
//            after them, up to list_rows entries
// Each invocation reads all choices and writes those of its experts, so that the order does not depend
// on which comes first.

const WORKGROUP = 256u;
const NO_EXPERT = 0xffffffffu;

struct SortParams {
    experts: u32,    // experts of the mixture
    top: u32,        // experts of a row
    unit: u32,       // what the run of an expert starts at a multiple of
    choices_at: u32, // the first word of the choices
    list_at: u32,    // the first entry of the list
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> p: SortParams;
@group(0) @binding(3) var<storage, read_write> choices: array<u32>;
@group(0) @binding(4) var<storage, read_write> list: array<vec2<u32>>;

// Entries in the run of an expert, and then where it starts.
var<workgroup> runs: array<u32, EXPERTS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) lane: u32) {
    let pairs = recorded_count() * p.top;
    for (var e = lane; e < p.experts; e += WORKGROUP) {
        var count = 0u;
        for (var i = 0u; i < pairs; i += 1u) {
            count += select(0u, 1u, choices[p.choices_at + 3u * i] == e);
        }
        runs[e] = (count + p.unit - 1u) / p.unit * p.unit;
    }
    workgroupBarrier();
    if (lane == 0u) {
        var at = 0u;
        for (var e = 0u; e < p.experts; e += 1u) {
            let length = runs[e];
            runs[e] = at;
            at += length;
        }
    }
    workgroupBarrier();
    // The longest list of so many pairs: `RouteSpec::list_rows`.
    let used = min(pairs, p.experts);
    let rows = (pairs + used * (p.unit - 1u)) / p.unit * p.unit;
    for (var e = lane; e < p.experts; e += WORKGROUP) {
        var at = runs[e];
        for (var i = 0u; i < pairs; i += 1u) {
            if (choices[p.choices_at + 3u * i] == e) {
                list[p.list_at + at] = vec2<u32>(i / p.top, e);
                choices[p.choices_at + 3u * i + 1u] = at;
                at += 1u;
            }
        }
        // The last run is followed by what no run needs.
        var end = rows;
        if (e + 1u < p.experts) {
            end = runs[e + 1u];
        }
        for (; at < end; at += 1u) {
            list[p.list_at + at] = vec2<u32>(0u, NO_EXPERT);
        }
    }
}

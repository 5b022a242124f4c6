// Attention by single subgroups: a workgroup is one subgroup of LANES lanes, which exchanges registers.
// Requires: attention/query, cache, const QUERIES, const LANES, const CHUNKS.
// Features: subgroups.
// Provides: main.
//
// In a step, each lane has one slot: it loads its keys, and gets the queries from the other lanes, which
// keep an octet of each of CHUNKS · LANES octets. Then each lane has columns: it loads their values slot
// by slot, and gets weights from the lanes that have the slots.
// Why: software adapters load lane by lane, so that a load is worth many operations. Here each byte of the
// cache is loaded once for all queries of a tile, and nothing goes through workgroup memory.
// Why calls for each query and not loops: drivers keep an array in registers only if all its indices are
// constant.
// Caller: every subgroup has {LANES} lanes.

var<private> q_low: array<vec4<f32>, QUERIES * CHUNKS>;
var<private> q_high: array<vec4<f32>, QUERIES * CHUNKS>;
var<private> y_low: array<vec4<f32>, QUERIES * CHUNKS>;
var<private> y_high: array<vec4<f32>, QUERIES * CHUNKS>;
var<private> firsts: array<u32, QUERIES>;
var<private> ends: array<u32, QUERIES>;
// Products, then weights of this lane's slot.
var<private> weights: array<f32, QUERIES>;
var<private> highest: array<f32, QUERIES>;
// The sums of the weights of this lane's slots.
var<private> sums: array<f32, QUERIES>;

fn load_chunk(c: u32, i: u32, query: Query, lane: u32) {
    let o = c * LANES + lane;
    var octet = Octet();
    if (o < octets()) {
        octet = query_octet(query, o);
    }
    q_low[i * CHUNKS + c] = octet.low;
    q_high[i * CHUNKS + c] = octet.high;
    y_low[i * CHUNKS + c] = vec4<f32>(0.0);
    y_high[i * CHUNKS + c] = vec4<f32>(0.0);
}

fn load_query(i: u32, tile: Tile, lane: u32) {
    let query = query_of(tile, i);
    firsts[i] = query.first;
    ends[i] = query.end;
    highest[i] = LOWEST;
    sums[i] = 0.0;
    load_chunk(0u, i, query, lane);
    if (CHUNKS > 1u) {
        load_chunk(1u, i, query, lane);
    }
    if (CHUNKS > 2u) {
        load_chunk(2u, i, query, lane);
        load_chunk(3u, i, query, lane);
    }
}

fn add_product(i: u32, c: u32, origin: u32, k: Octet) {
    let low = subgroupShuffle(q_low[i * CHUNKS + c], origin);
    let high = subgroupShuffle(q_high[i * CHUNKS + c], origin);
    weights[i] += dot_octet(Octet(low, high), k);
}

// Adds the products of the keys of this lane's slot with the octets of a chunk.
fn add_products(c: u32, row: u32) {
    let count = min(octets() - min(c * LANES, octets()), LANES);
    for (var origin = 0u; origin < count; origin += 1u) {
        let o = c * LANES + origin;
        var k = key_octet(row, o, is_whole(o));
        k.high = select(vec4<f32>(0.0), k.high, is_whole(o));
        add_product(0u, c, origin, k);
        add_product(1u, c, origin, k);
        add_product(2u, c, origin, k);
        add_product(3u, c, origin, k);
        if (QUERIES > 4u) {
            add_product(4u, c, origin, k);
            add_product(5u, c, origin, k);
            add_product(6u, c, origin, k);
            add_product(7u, c, origin, k);
        }
    }
}

fn scale_chunk(c: u32, i: u32, factor: f32) {
    y_low[i * CHUNKS + c] *= factor;
    y_high[i * CHUNKS + c] *= factor;
}

// Turns a product into a weight, and scales what was summed before to the new maximum.
fn weigh(i: u32, tile: Tile, slot: u32, scales: vec2<f32>) {
    var s = score(weights[i] * scales.x);
    if (p.biased == 1u) {
        s += bias_of(query_of(tile, i), slot);
    }
    let visible = slot >= firsts[i] && slot < ends[i];
    let highest_now = max(highest[i], subgroupMax(select(LOWEST, s, visible)));
    let factor = decay(highest[i] - highest_now);
    let weight = select(0.0, decay(s - highest_now), visible);
    highest[i] = highest_now;
    sums[i] = sums[i] * factor + weight;
    weights[i] = weight * scales.y;
    scale_chunk(0u, i, factor);
    if (CHUNKS > 1u) {
        scale_chunk(1u, i, factor);
    }
    if (CHUNKS > 2u) {
        scale_chunk(2u, i, factor);
        scale_chunk(3u, i, factor);
    }
}

fn add_value(i: u32, c: u32, origin: u32, v: Octet) {
    let weight = subgroupShuffle(weights[i], origin);
    y_low[i * CHUNKS + c] += weight * v.low;
    y_high[i * CHUNKS + c] += weight * v.high;
}

// Adds this lane's columns of the values of all slots of a step, which all queries see.
fn add_values(c: u32, kv_head: u32, first: u32, lane: u32) {
    let o = min(c * LANES + lane, octets() - 1u);
    for (var origin = 0u; origin < LANES; origin += 1u) {
        let v = value_octet(value_row(kv_head, first + origin), o, is_whole(o));
        add_value(0u, c, origin, v);
        add_value(1u, c, origin, v);
        add_value(2u, c, origin, v);
        add_value(3u, c, origin, v);
        if (QUERIES > 4u) {
            add_value(4u, c, origin, v);
            add_value(5u, c, origin, v);
            add_value(6u, c, origin, v);
            add_value(7u, c, origin, v);
        }
    }
}

// A slot that a query does not see may hold anything, NaN for example.
fn add_seen_value(i: u32, c: u32, origin: u32, slot: u32, v: Octet) {
    let weight = subgroupShuffle(weights[i], origin);
    let visible = slot >= firsts[i] && slot < ends[i];
    let low = y_low[i * CHUNKS + c];
    let high = y_high[i * CHUNKS + c];
    y_low[i * CHUNKS + c] = select(low, low + weight * v.low, visible);
    y_high[i * CHUNKS + c] = select(high, high + weight * v.high, visible);
}

// Adds values where some queries do not see some slots.
fn add_seen_values(c: u32, kv_head: u32, first: u32, end: u32, lane: u32) {
    let o = min(c * LANES + lane, octets() - 1u);
    for (var origin = 0u; origin < min(LANES, end - first); origin += 1u) {
        let slot = first + origin;
        let v = value_octet(value_row(kv_head, slot), o, is_whole(o));
        add_seen_value(0u, c, origin, slot, v);
        add_seen_value(1u, c, origin, slot, v);
        add_seen_value(2u, c, origin, slot, v);
        add_seen_value(3u, c, origin, slot, v);
        if (QUERIES > 4u) {
            add_seen_value(4u, c, origin, slot, v);
            add_seen_value(5u, c, origin, slot, v);
            add_seen_value(6u, c, origin, slot, v);
            add_seen_value(7u, c, origin, slot, v);
        }
    }
}

fn put_chunk(c: u32, i: u32, query: Query, part: u32, split: bool, lane: u32) {
    let o = c * LANES + lane;
    let octet = Octet(y_low[i * CHUNKS + c], y_high[i * CHUNKS + c]);
    if (o < octets()) {
        if (split) {
            put_part_octet(query, part, o, octet);
        } else {
            put_octet(query, o, octet);
        }
    }
}

fn put_query(i: u32, tile: Tile, split: bool, lane: u32) {
    let query = query_of(tile, i);
    let sum = subgroupAdd(sums[i]);
    if (!split) {
        let factor = select(reciprocal(sum), 0.0, query.first >= query.end);
        scale_chunk(0u, i, factor);
        if (CHUNKS > 1u) {
            scale_chunk(1u, i, factor);
        }
        if (CHUNKS > 2u) {
            scale_chunk(2u, i, factor);
            scale_chunk(3u, i, factor);
        }
    }
    if (query.live) {
        if (split && lane == 0u) {
            put_part(query, tile.part, highest[i], sum);
        }
        put_chunk(0u, i, query, tile.part, split, lane);
        if (CHUNKS > 1u) {
            put_chunk(1u, i, query, tile.part, split, lane);
        }
        if (CHUNKS > 2u) {
            put_chunk(2u, i, query, tile.part, split, lane);
            put_chunk(3u, i, query, tile.part, split, lane);
        }
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = tile_of(workgroup_index(group, count));
    if (!tile.live) {
        return;
    }
    let sight = sight_of(tile);
    let used = parts_used(sight.end - sight.begin);
    if (tile.part >= used) {
        return;
    }
    let each = slots_of_part(sight.end - sight.begin);
    let begin = sight.begin + tile.part * each;
    let end = min(begin + each, sight.end);
    load_query(0u, tile, lane);
    load_query(1u, tile, lane);
    load_query(2u, tile, lane);
    load_query(3u, tile, lane);
    if (QUERIES > 4u) {
        load_query(4u, tile, lane);
        load_query(5u, tile, lane);
        load_query(6u, tile, lane);
        load_query(7u, tile, lane);
    }
    for (var at = begin; at < end; at += LANES) {
        let slot = min(at + lane, end - 1u);
        weights = array<f32, QUERIES>();
        add_products(0u, key_row(tile.kv_head, slot));
        if (CHUNKS > 1u) {
            add_products(1u, key_row(tile.kv_head, slot));
        }
        if (CHUNKS > 2u) {
            add_products(2u, key_row(tile.kv_head, slot));
            add_products(3u, key_row(tile.kv_head, slot));
        }
        let scales = vec2<f32>(key_scale(tile.kv_head, slot), value_scale(tile.kv_head, slot));
        let own = select(slot, p.slots, at + lane >= end);
        weigh(0u, tile, own, scales);
        weigh(1u, tile, own, scales);
        weigh(2u, tile, own, scales);
        weigh(3u, tile, own, scales);
        if (QUERIES > 4u) {
            weigh(4u, tile, own, scales);
            weigh(5u, tile, own, scales);
            weigh(6u, tile, own, scales);
            weigh(7u, tile, own, scales);
        }
        if (at >= sight.all_from && at + LANES <= min(sight.all_to, end)) {
            add_values(0u, tile.kv_head, at, lane);
            if (CHUNKS > 1u) {
                add_values(1u, tile.kv_head, at, lane);
            }
            if (CHUNKS > 2u) {
                add_values(2u, tile.kv_head, at, lane);
                add_values(3u, tile.kv_head, at, lane);
            }
        } else {
            add_seen_values(0u, tile.kv_head, at, end, lane);
            if (CHUNKS > 1u) {
                add_seen_values(1u, tile.kv_head, at, end, lane);
            }
            if (CHUNKS > 2u) {
                add_seen_values(2u, tile.kv_head, at, end, lane);
                add_seen_values(3u, tile.kv_head, at, end, lane);
            }
        }
    }
    put_query(0u, tile, used > 1u, lane);
    put_query(1u, tile, used > 1u, lane);
    put_query(2u, tile, used > 1u, lane);
    put_query(3u, tile, used > 1u, lane);
    if (QUERIES > 4u) {
        put_query(4u, tile, used > 1u, lane);
        put_query(5u, tile, used > 1u, lane);
        put_query(6u, tile, used > 1u, lane);
        put_query(7u, tile, used > 1u, lane);
    }
}

// Attention by workgroups of WORKGROUP lanes, which share queries and weights in workgroup memory.
// Requires: attention/query, cache, const QUERIES, const WORKGROUP, const HELD.
// Provides: main.
// Workgroup memory: QUERIES · (HELD · 16 + WORKGROUP · 4 + 24) + WORKGROUP · 4 bytes.
//
// In a step, each lane has one slot: it multiplies its keys with all queries of the tile. Then each lane
// has eight columns of every so many slots, so that lanes load values side by side; sums over the lanes of
// the same columns come last.
// Why: keys and values are loaded once for a tile, 16 bytes at a time and whole rows together, and the
// number of registers does not depend on the size of heads.
// Why calls for each query and not loops: see attention/lanes.
// Why queries are in workgroup memory: what eight of them see and where they go would fill the scalar
// registers of GPUs.

// Columns of queries, by fours; at the end, sums of values.
var<workgroup> shared_q: array<vec4<f32>, QUERIES * HELD>;
// Scores, then weights.
var<workgroup> shared_weights: array<f32, QUERIES * WORKGROUP>;
var<workgroup> shared_most: array<f32, WORKGROUP>;
var<workgroup> shared_queries: array<Query, QUERIES>;

var<private> y_low: array<vec4<f32>, QUERIES>;
var<private> y_high: array<vec4<f32>, QUERIES>;
// Products, then scores of this lane's slot.
var<private> scores: array<f32, QUERIES>;
var<private> highest: array<f32, QUERIES>;
// The sums of the weights of this lane's slots.
var<private> sums: array<f32, QUERIES>;

// Lanes that look for the maximum of a query.
const SEEKERS = WORKGROUP / QUERIES;

fn load_query(i: u32, tile: Tile, lane: u32) {
    let query = query_of(tile, i);
    if (lane == 0u) {
        shared_queries[i] = query;
    }
    highest[i] = LOWEST;
    sums[i] = 0.0;
    y_low[i] = vec4<f32>(0.0);
    y_high[i] = vec4<f32>(0.0);
    for (var o = lane; o < octets(); o += WORKGROUP) {
        let octet = query_octet(query, o);
        shared_q[i * HELD + 2u * o] = octet.low;
        shared_q[i * HELD + 2u * o + 1u] = octet.high;
    }
}

fn sees(i: u32, slot: u32) -> bool {
    return slot >= shared_queries[i].first && slot < shared_queries[i].end;
}

fn add_product(i: u32, o: u32, k: Octet) {
    let at = i * HELD + 2u * o;
    scores[i] += dot_octet(Octet(shared_q[at], shared_q[at + 1u]), k);
}

fn put_score(i: u32, slot: u32, key_scale: f32, lane: u32) {
    var s = score(scores[i] * key_scale);
    if (p.biased == 1u) {
        s += bias_of(shared_queries[i], slot);
    }
    scores[i] = s;
    shared_weights[i * WORKGROUP + lane] = select(LOWEST, s, sees(i, slot));
}

// The maximum of every SEEKERSth score of a query.
fn seek(lane: u32) {
    let at = lane / SEEKERS * WORKGROUP + lane % SEEKERS;
    var most = shared_weights[at];
    for (var k = 1u; k < QUERIES; k += 1u) {
        most = max(most, shared_weights[at + k * SEEKERS]);
    }
    shared_most[lane] = most;
}

// Turns a score into a weight, and scales what was summed before to the new maximum.
fn weigh(i: u32, slot: u32, value_scale: f32, lane: u32) {
    var highest_now = highest[i];
    for (var k = 0u; k < SEEKERS; k += 1u) {
        highest_now = max(highest_now, shared_most[i * SEEKERS + k]);
    }
    let factor = decay(highest[i] - highest_now);
    let weight = select(0.0, decay(scores[i] - highest_now), sees(i, slot));
    highest[i] = highest_now;
    sums[i] = sums[i] * factor + weight;
    shared_weights[i * WORKGROUP + lane] = weight * value_scale;
    y_low[i] *= factor;
    y_high[i] *= factor;
}

fn add_value(i: u32, place: u32, v: Octet) {
    let weight = shared_weights[i * WORKGROUP + place];
    y_low[i] += weight * v.low;
    y_high[i] += weight * v.high;
}

// A slot that a query does not see may hold anything, NaN for example.
fn add_seen_value(i: u32, place: u32, slot: u32, v: Octet) {
    if (sees(i, slot)) {
        add_value(i, place, v);
    }
}

// Sums over all lanes, and stores.
fn put_query(i: u32, tile: Tile, split: bool, lane: u32) {
    shared_q[lane] = y_low[i];
    shared_q[WORKGROUP + lane] = y_high[i];
    shared_most[lane] = sums[i];
    workgroupBarrier();
    let query = shared_queries[i];
    let o = lane;
    var octet = Octet();
    var sum = 0.0;
    if (o < octets()) {
        for (var team = 0u; team < WORKGROUP / octets(); team += 1u) {
            octet.low += shared_q[team * octets() + o];
            octet.high += shared_q[WORKGROUP + team * octets() + o];
        }
        for (var k = 0u; k < WORKGROUP; k += 1u) {
            sum += shared_most[k];
        }
    }
    if (!split) {
        let factor = select(reciprocal(sum), 0.0, query.first >= query.end);
        octet = Octet(octet.low * factor, octet.high * factor);
    }
    if (query.live && o < octets()) {
        if (split && lane == 0u) {
            put_part(query, tile.part, highest[i], sum);
        }
        if (split) {
            put_part_octet(query, tile.part, o, octet);
        } else {
            put_octet(query, o, octet);
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WORKGROUP)
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
    workgroupBarrier();
    // Teams of lanes that have all columns of a slot; lanes past the last one have no slots.
    let teams = WORKGROUP / octets();
    let team = lane / octets();
    let o = lane % octets();
    for (var at = begin; at < end; at += WORKGROUP) {
        let slot = min(at + lane, end - 1u);
        let own = select(slot, p.slots, at + lane >= end);
        let row = key_row(tile.kv_head, slot);
        scores = array<f32, QUERIES>();
        for (var c = 0u; c < octets(); c += 1u) {
            var k = key_octet(row, c, is_whole(c));
            k.high = select(vec4<f32>(0.0), k.high, is_whole(c));
            add_product(0u, c, k);
            add_product(1u, c, k);
            add_product(2u, c, k);
            add_product(3u, c, k);
            if (QUERIES > 4u) {
                add_product(4u, c, k);
                add_product(5u, c, k);
                add_product(6u, c, k);
                add_product(7u, c, k);
            }
        }
        let key_scale = key_scale(tile.kv_head, slot);
        put_score(0u, own, key_scale, lane);
        put_score(1u, own, key_scale, lane);
        put_score(2u, own, key_scale, lane);
        put_score(3u, own, key_scale, lane);
        if (QUERIES > 4u) {
            put_score(4u, own, key_scale, lane);
            put_score(5u, own, key_scale, lane);
            put_score(6u, own, key_scale, lane);
            put_score(7u, own, key_scale, lane);
        }
        workgroupBarrier();
        seek(lane);
        workgroupBarrier();
        let value_scale = value_scale(tile.kv_head, slot);
        weigh(0u, own, value_scale, lane);
        weigh(1u, own, value_scale, lane);
        weigh(2u, own, value_scale, lane);
        weigh(3u, own, value_scale, lane);
        if (QUERIES > 4u) {
            weigh(4u, own, value_scale, lane);
            weigh(5u, own, value_scale, lane);
            weigh(6u, own, value_scale, lane);
            weigh(7u, own, value_scale, lane);
        }
        workgroupBarrier();
        let places = min(WORKGROUP, end - at);
        let all = at >= sight.all_from && at + places <= sight.all_to;
        for (var place = team; place < places && team < teams; place += teams) {
            let v = value_octet(value_row(tile.kv_head, at + place), o, is_whole(o));
            if (all) {
                add_value(0u, place, v);
                add_value(1u, place, v);
                add_value(2u, place, v);
                add_value(3u, place, v);
                if (QUERIES > 4u) {
                    add_value(4u, place, v);
                    add_value(5u, place, v);
                    add_value(6u, place, v);
                    add_value(7u, place, v);
                }
            } else {
                add_seen_value(0u, place, at + place, v);
                add_seen_value(1u, place, at + place, v);
                add_seen_value(2u, place, at + place, v);
                add_seen_value(3u, place, at + place, v);
                if (QUERIES > 4u) {
                    add_seen_value(4u, place, at + place, v);
                    add_seen_value(5u, place, at + place, v);
                    add_seen_value(6u, place, at + place, v);
                    add_seen_value(7u, place, at + place, v);
                }
            }
        }
        workgroupBarrier();
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

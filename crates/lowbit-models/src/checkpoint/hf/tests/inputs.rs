//! What the configuration of compressed-tensors says about the inputs of modules.

use super::Checkpoint;
use crate::checkpoint::Dtype;
use lowbit::format::{Quantization, StaticScale};
use serde_json::{Value, json};

/// A checkpoint with the modules `a.up` and `a.down`, int8 with a scale for each row, of these groups.
fn checkpoint(groups: Value) -> Checkpoint {
    let config = json!({
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": groups,
    });
    let mut checkpoint = Checkpoint::new(config);
    for module in ["a.up", "a.down"] {
        checkpoint = checkpoint
            .bytes(&format!("{module}.weight"), Dtype::I8, &[2, 32], &[7; 64])
            .f32s(&format!("{module}.weight_scale"), &[2, 1], &[0.5, 0.25]);
    }
    checkpoint
}

fn group(targets: &[&str], inputs: Value) -> Value {
    let weights = json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel"});
    json!({"targets": targets, "weights": weights, "input_activations": inputs})
}

/// Inputs of one scale for each row of X, taken from X.
fn token(symmetric: bool) -> Value {
    json!({"num_bits": 8, "type": "int", "symmetric": symmetric, "strategy": "token", "dynamic": true})
}

fn dynamic(name: &str) -> Option<Quantization> {
    Some(Quantization::Dynamic(name.parse().unwrap()))
}

/// Checks how the inputs of `a.up` and `a.down` become codes, and returns the warnings.
fn check(
    checkpoint: &Checkpoint,
    up: Option<Quantization>,
    down: Option<Quantization>,
) -> Vec<String> {
    let opened = checkpoint.open();
    let inputs = opened.model.inputs();
    let of = |name: &str| inputs.get(name).copied();
    assert_eq!((of("a.up.weight"), of("a.down.weight")), (up, down), "{}", checkpoint.config);
    opened.model.warnings().to_vec()
}

#[test]
fn groups_name_modules_by_name_by_pattern_and_by_class() {
    let (asymmetric, symmetric) = (dynamic("int8-token-asym"), dynamic("int8-token"));
    // One group, or several that agree, need not name the module.
    let one = json!({"group_0": group(&["Linear"], token(true))});
    assert_eq!(check(&checkpoint(one), symmetric, symmetric), [""; 0]);
    let agree = json!({
        "group_0": group(&["b"], token(true)),
        "group_1": group(&["c"], token(true)),
    });
    assert_eq!(check(&checkpoint(agree), symmetric, symmetric), [""; 0]);
    // A name goes before a pattern, which goes before a class, wherever they stand.
    for (named, up, down) in [
        ("a.down", symmetric, asymmetric),
        ("re:.*down", symmetric, asymmetric),
        // A pattern is matched from the start of the name.
        ("re:down", symmetric, symmetric),
        ("re:a", asymmetric, asymmetric),
        (r"re:\w\.d[a-o]\w{2}$", symmetric, asymmetric),
    ] {
        for (first, second) in [("x", "y"), ("y", "x")] {
            let groups = json!({
                first: group(&["Linear"], token(true)),
                second: group(&[named], token(false)),
            });
            assert_eq!(check(&checkpoint(groups), up, down), [""; 0], "{named}");
        }
    }
    // Patterns are tried in the order of their texts, and the first that matches decides.
    for (down, all) in [("re:.*down", "re:.*n$"), ("re:a.*down", "re:a.*n")] {
        for (first, second) in [("x", "y"), ("y", "x")] {
            let groups = json!({
                first: group(&[all], token(true)),
                second: group(&[down, "a.up"], token(false)),
            });
            assert_eq!(check(&checkpoint(groups), asymmetric, asymmetric), [""; 0], "{all}");
        }
    }
    // Groups of floats are groups as well.
    let some = json!({
        "group_0": group(&["Linear"], Value::Null),
        "group_1": group(&["a.up"], token(false)),
    });
    assert_eq!(check(&checkpoint(some), asymmetric, None), [""; 0]);
    // What no group names stays floats, and the warning says so.
    let other = json!({
        "group_0": group(&["a.up"], token(true)),
        "group_1": group(&["b.up"], token(false)),
    });
    let warnings = check(&checkpoint(other), symmetric, None);
    assert!(
        matches!(&warnings[..], [one] if one.contains("`a.down.weight`") && one.contains("no group")),
        "{warnings:?}"
    );
}

#[test]
fn fixed_scales_are_tensors() {
    let fixed = |symmetric: bool, strategy: &str| {
        let inputs = json!({
            "num_bits": 8, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": false,
        });
        checkpoint(json!({"group_0": group(&["Linear"], inputs)}))
    };
    let with = |checkpoint: Checkpoint, scale: f32| {
        checkpoint
            .f16s("a.up.input_scale", &[1], &[0.5])
            .bytes("a.up.input_zero_point", Dtype::I8, &[1], &[0xf0])
            .f32s("a.down.input_scale", &[], &[scale])
            .bytes("a.down.input_zero_point", Dtype::I8, &[], &[0])
    };
    let static_of =
        |scale: f32, zero_point: i32| Some(Quantization::Static(StaticScale { scale, zero_point }));
    let sound = with(fixed(false, "tensor"), 0.125);
    assert_eq!(check(&sound, static_of(0.5, -16), static_of(0.125, 0)), [""; 0]);
    assert_eq!(sound.open().model.plain().count(), 0);
    // Without zero points, a tensor of them is not read.
    let symmetric = with(fixed(true, "tensor"), 0.125);
    assert_eq!(check(&symmetric, static_of(0.5, 0), static_of(0.125, 0)), [""; 0]);
    for (checkpoint, why) in [
        (sound.clone().without("a.down.input_scale"), "there is no `input_scale`"),
        (sound.clone().f32s("a.down.input_scale", &[2], &[1.0, 2.0]), "there is no `input_scale`"),
        (with(fixed(false, "tensor"), 0.0), "0"),
        (with(fixed(false, "tensor"), f32::NAN), "NaN"),
        (sound.clone().f32s("a.down.input_zero_point", &[1], &[1.0]), "no `input_zero_point`"),
        (
            sound.clone().bytes("a.down.input_zero_point", Dtype::I8, &[2], &[1, 2]),
            "no `input_zero_point`",
        ),
        (sound.clone().without("a.down.input_zero_point"), "no `input_zero_point`"),
    ] {
        let warnings = check(&checkpoint, static_of(0.5, -16), None);
        assert!(matches!(&warnings[..], [one] if one.contains(why)), "{why}: {warnings:?}");
        assert_eq!(checkpoint.open().model.plain().count(), 0, "{why}");
    }
    let warnings = check(&with(fixed(true, "token"), 0.5), None, None);
    assert!(
        matches!(&warnings[..], [one] if one.contains("2 weights") && one.contains("token")),
        "{warnings:?}"
    );
}

#[test]
fn what_kernels_do_not_make_is_said() {
    for (inputs, why) in [
        (
            json!({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true}),
            "8-bit floats",
        ),
        (
            json!({"num_bits": 4, "type": "int", "strategy": "token", "dynamic": true}),
            "4-bit integers",
        ),
        (json!({"num_bits": 8, "type": "int", "strategy": "block", "dynamic": true}), "`block`"),
        (
            json!({"num_bits": 8, "type": "int", "strategy": "group", "group_size": 24, "dynamic": true}),
            "`g24`",
        ),
    ] {
        let checkpoint = checkpoint(json!({"group_0": group(&["Linear"], inputs)}));
        let warnings = check(&checkpoint, None, None);
        assert!(
            matches!(&warnings[..], [one] if one.contains("2 weights") && one.contains(why)),
            "{why}: {warnings:?}"
        );
    }
    // Without a strategy, a size makes groups.
    let inputs = json!({"num_bits": 8, "type": "int", "group_size": 32, "dynamic": true});
    let grouped = checkpoint(json!({"group_0": group(&["Linear"], inputs)}));
    assert_eq!(check(&grouped, dynamic("int8-g32"), dynamic("int8-g32")), [""; 0]);
    // Outputs and caches are not quantized.
    let mut other = group(&["Linear"], token(true));
    other["output_activations"] = token(true);
    let mut other = checkpoint(json!({"group_0": other}));
    other.config["kv_cache_scheme"] = token(true);
    let warnings = check(&other, dynamic("int8-token"), dynamic("int8-token"));
    assert!(
        matches!(&warnings[..], [a, b] if a.contains("outputs") && b.contains("--kv")),
        "{warnings:?}"
    );
    // Patterns that are not understood are an error of the configuration and of no weight.
    let groups = json!({
        "group_0": group(&["re:("], token(true)),
        "group_1": group(&["a.up"], token(false)),
    });
    let warnings = check(&checkpoint(groups), dynamic("int8-token-asym"), None);
    assert!(matches!(&warnings[..], [one] if one.contains("`re:(`")), "{warnings:?}");
}

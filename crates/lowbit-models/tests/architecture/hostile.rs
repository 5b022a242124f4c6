//! Settings that are wrong in every way that one change makes: no panic, no result that cannot be computed
//! with, and no memory or time beyond what the file is worth.

use super::altered::Altered;
use super::{cases, open};
use crate::memory::peak;
use lowbit_models::architecture::{self, reference};
use lowbit_models::checkpoint::source::ModelSource;
use serde_json::{Value, json};

/// Returns pointers to all settings.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    if let Value::Object(map) = value {
        for (key, value) in map {
            let pointer = format!("{at}/{key}");
            pointers(value, &pointer, found);
            found.push(pointer);
        }
    }
}

/// What a setting becomes.
fn values() -> Vec<Option<Value>> {
    let numbers = [0u64, 1, 2, 3, 5, 16, 1 << 28, (1 << 28) + 1, 1 << 32, u64::MAX];
    let floats = [-1.0, 0.5, 1e-45, 1e300, -0.0];
    let others =
        [json!(true), json!("x"), json!("default"), json!([]), json!([0]), json!({}), json!(null)];
    let numbers = numbers.into_iter().map(|number| json!(number));
    numbers.chain(floats.map(|float| json!(float))).chain(others).map(Some).chain([None]).collect()
}

#[test]
fn no_setting_can_break_a_reader() {
    let (mut read, mut refused) = (0, 0);
    for case in cases() {
        let (model, blueprint) = open(&case);
        let mut found = Vec::new();
        pointers(model.config(), "", &mut found);
        assert!(found.len() >= 7, "{found:?}");
        for pointer in found {
            for value in values() {
                let altered = Altered::new(&model).set(&pointer, value.clone());
                let (result, bytes) = peak(|| architecture::read(&altered));
                // All sizes are those of tensors that are in the file.
                assert!(bytes < 4 << 20, "{pointer} = {value:?}: {bytes} bytes");
                match result {
                    Ok(changed) => {
                        read += 1;
                        assert!(
                            changed.tensors().iter().all(|name| {
                                altered.items.iter().any(|item| item.name == *name)
                            })
                        );
                        // Only what differs is worth the time.
                        if changed != blueprint {
                            let tokens = [5, 7];
                            let result = reference::hidden(&altered, &changed, &tokens, &[true; 2]);
                            assert!(result.is_ok(), "{pointer} = {value:?}: {result:?}");
                        }
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(error.to_string().len() < 400, "{error}");
                    }
                }
            }
        }
    }
    println!("{read} are read, {refused} refused");
    assert!(read > 1000 && refused > 5000, "{read} are read, {refused} refused");
}

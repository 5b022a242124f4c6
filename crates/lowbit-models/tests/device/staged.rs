//! Compares what a model takes stage by stage with the same inputs of the forward pass in f64.

use super::observe::wanted;
use super::{F32, cases, shared, words};
use lowbit_models::architecture;
use lowbit_models::checkpoint::source;
use lowbit_models::device::{InputRows, RunError, Stage, StagedRun};
use pollster::block_on;
use std::collections::BTreeMap;

#[test]
fn inputs_of_stages_are_those_of_the_forward_pass_in_f64() {
    let Some(host) = shared() else { return };
    let (mut ran, mut refused) = (0, Vec::new());
    for kind in ["logits", "hidden"] {
        for (name, path, expected) in cases(kind) {
            let source = source::open(&path).unwrap();
            let blueprint = architecture::read(&source).unwrap();
            let tokens = words(&expected, "tokens");
            // The last two share a step.
            let longest = tokens.len().min(11);
            let texts = [tokens[..longest].to_vec(), tokens[1..4].to_vec(), tokens[2..8].to_vec()];
            let mut run = StagedRun::new(&host, &blueprint, &texts, longest).unwrap();
            assert_eq!(run.tokens(), longest + 9);
            assert_eq!(run.steps(), 2, "{name}");
            let wanted = wanted(&source, &blueprint, &texts);
            let (mut inputs, mut stages) = (0, 0);
            let error = loop {
                let stage = run.next();
                let names = run.inputs(stage);
                let mut seen: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
                let mut each = |InputRows { index, columns, x }: InputRows<'_>| {
                    assert!(x.len().is_multiple_of(columns));
                    seen.entry(index).or_default().extend(x);
                    Ok(())
                };
                if let Err(error) = block_on(run.observe(&source, &mut each)) {
                    break Some(error);
                }
                assert_eq!(seen.len(), names.len(), "{name}: {stage:?}");
                for (index, x) in seen {
                    // Queries, keys and values of one tensor took turns in the forward pass.
                    let rows = &wanted[names[index].weights()[0]];
                    let times = rows.len() / x.len();
                    assert_eq!(rows.len(), times * x.len(), "{name}: {stage:?}");
                    if times == 1 {
                        let largest = rows.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
                        for (x, want) in x.iter().zip(rows) {
                            let off = (f64::from(*x) - want).abs() / largest;
                            assert!(off <= F32, "{name}: {stage:?}, input {index}: {off:.1e}");
                        }
                        ran += 1;
                    }
                    inputs += 1;
                }
                stages += 1;
                if stage == Stage::End {
                    break None;
                }
                block_on(run.advance(&source)).unwrap();
            };
            match error {
                None => {
                    assert_eq!(inputs, blueprint.inputs().len(), "{name}");
                    assert_eq!(stages, blueprint.layers.len() + 2, "{name}");
                }
                Some(RunError::Unsupported { what, .. }) => {
                    assert!(what.contains("experts"), "{name}: {what}");
                    refused.push(name);
                }
                Some(error) => panic!("{name}: {error}"),
            }
        }
    }
    println!("{ran} inputs; refused: {refused:?}");
    assert!(refused.iter().all(|name| name.contains("moe")), "{refused:?}");
    assert!(ran > 250, "{ran}");
}

#[test]
fn what_cannot_run_is_refused() {
    let Some(host) = shared() else { return };
    let (_, path, _) = cases("logits").swap_remove(0);
    let source = source::open(path).unwrap();
    let blueprint = architecture::read(&source).unwrap();
    let refused =
        |texts: &[Vec<u32>], rows| StagedRun::new(&host, &blueprint, texts, rows).unwrap_err();
    assert!(matches!(refused(&[], 8), RunError::Empty));
    assert!(matches!(refused(&[vec![], vec![]], 8), RunError::Empty));
    assert!(matches!(refused(&[vec![1; 9]], 8), RunError::Full { need: 9, slots: 8 }));
    assert!(matches!(refused(&[vec![1 << 20]], 8), RunError::Token { .. }));
    assert!(matches!(refused(&[vec![1]], 0), RunError::Options(_)));
    assert!(matches!(refused(&[vec![1]], 1 << 20), RunError::Options(_)));
}

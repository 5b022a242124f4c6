//! `lowbit explore`.

use crate::cli::{Scratch, fine, gpu, refused};
use crate::tiny_language::tiny;
use serde_json::Value;
use std::fs;

const TEXT: &str = "It is a truth universally acknowledged, that a single man in possession of a good \
    fortune, must be in want of a wife. However little known the feelings or views of such a man may be on his \
    first entering a neighbourhood, this truth is so well fixed in the minds of the surrounding families.";

#[test]
fn a_page_a_recipe_and_json_are_written() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let model = tiny(&scratch, "llama");
    let [text, eval, page, json, out] =
        ["text", "eval", "a.html", "a.json", "out.safetensors"].map(|name| scratch.text(name));
    fs::write(&text, TEXT).unwrap();
    fs::write(&eval, TEXT.chars().rev().collect::<String>()).unwrap();
    let candidates =
        "keep,rtn:int8-channel,gptq:int3-g32-asym,awq:int3-g32-asym,rtn:int8-channel@int8-token";
    let args = [
        "explore",
        &model,
        "--text",
        &text,
        "--eval",
        &eval,
        "--candidates",
        candidates,
        "--samples",
        "8",
        "--sample-tokens",
        "24",
        "--eval-samples",
        "4",
        "--eval-tokens",
        "24",
        "--points",
        "1",
        "--target-bpw",
        "6.5",
        "-o",
        &page,
    ];
    let printed = fine(&args);
    assert!(
        printed.lines().all(|line| line.starts_with('→') || line.chars().count() <= 80),
        "{printed}"
    );
    assert!(printed.contains("rtn:int8-channel") && printed.contains("chosen"), "{printed}");
    let found = scratch.json("a.json");
    let number =
        |value: &Value, key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key}: {value}"));
    let uniform = found["uniform"].as_array().unwrap();
    let mut names: Vec<&str> = uniform.iter().map(|u| u["recipe"].as_str().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "awq:int3-g32-asym",
            "gptq:int3-g32-asym",
            "keep",
            "rtn:int8-channel",
            "rtn:int8-channel@int8-token"
        ]
    );
    for recipe in uniform.iter().chain([&found["chosen"]]) {
        assert!(number(recipe, "bytes") > 0.0 && number(recipe, "latency_ms") > 0.0);
        assert!(number(recipe, "loss").is_finite());
    }
    assert!(number(&found["chosen"], "bits_per_weight") <= 6.5);
    assert!(!found["candidates"].as_array().unwrap().is_empty());
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && !html.contains("<script"));
    let recipe = fs::read_to_string(scratch.path("a.recipe.toml")).unwrap();
    assert_eq!(found["chosen"]["recipe"], recipe.as_str());
    // The recipe makes a model of the size that was promised, and the folder is gone.
    let recipe = scratch.text("a.recipe.toml");
    fine(&[
        "compress",
        &model,
        "--recipe",
        &recipe,
        "--calibration",
        &text,
        "--samples",
        "8",
        "--sample-tokens",
        "24",
        "-o",
        &out,
        "--json",
        &scratch.text("compress.json"),
    ]);
    // After the header, whose length stands before it, the file is the data of all tensors.
    let file = fs::read(&out).unwrap();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap());
    assert_eq!((file.len() as u64 - header) as f64, number(&found["chosen"], "bytes"));
    assert!(!scratch.path("a.html.partial").exists());

    let with =
        |more: &[&str]| refused(&[&args[..4], &["--eval", &eval, "-o", &page], more].concat());
    for (more, why) in [
        (&["--candidates", "gptq"][..], "it is keep, or METHOD:FORMAT"),
        (&["--candidates", "keep@int8-token"], "it is keep, or METHOD:FORMAT"),
        (&["--candidates", "gptq:int4-g32@int4"], "unknown activation format"),
        (&["--candidates", "gptq:int9"], "does not begin with the name of a format"),
        (&["--candidates", "sparsegpt:int4-g32"], "sparsegpt prunes, and there is no sparsity"),
        (&["--candidates", "keep,keep"], "given twice"),
        (
            &[
                "--max-size",
                "0.000001",
                "--samples",
                "4",
                "--sample-tokens",
                "16",
                "--eval-tokens",
                "16",
            ],
            "takes at least",
        ),
        (&["--max-size", "0"], "a number above 0"),
        (&["--max-size", "1", "--max-loss", "1"], "cannot be used with"),
    ] {
        let said = with(more);
        assert!(said.contains(why), "{more:?}: {said}");
    }
    fs::write(&text, "").unwrap();
    let said = with(&["--json", &json]);
    assert!(said.contains("cannot take samples"), "{said}");
}

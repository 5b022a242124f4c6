//! `lowbit embed`: MiniLM's vectors, which `make model` fetches, and what is refused.

use crate::cli::{Scratch, command, fine, gpu, refused, stderr};
use crate::sentences::{cosine, sentences};
use std::fs;
use std::path::Path;

/// The folder of MiniLM, if it is there.
fn minilm() -> Option<String> {
    let file = crate::common::data("minilm/model.safetensors", "model")?;
    Some(file.parent()?.to_str()?.to_owned())
}

/// The rows of a NumPy file, whose header must be that of f32 in C order.
pub fn npy(path: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(bytes[8]) + 256 * usize::from(bytes[9]);
    assert_eq!(start % 64, 0);
    let header = std::str::from_utf8(&bytes[10..start]).unwrap();
    let shape = header
        .trim_end()
        .strip_prefix("{'descr': '<f4', 'fortran_order': False, 'shape': (")
        .and_then(|rest| rest.strip_suffix("), }"))
        .unwrap_or_else(|| panic!("{header}"));
    let (rows, columns) = shape.split_once(", ").unwrap();
    let (rows, columns): (usize, usize) = (rows.parse().unwrap(), columns.parse().unwrap());
    assert_eq!(bytes.len() - start, 4 * rows * columns);
    let numbers: Vec<f32> =
        bytes[start..].as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    numbers.chunks(columns).map(<[f32]>::to_vec).collect()
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

#[test]
fn vectors_are_those_of_the_reference() {
    let Some(model) = minilm().filter(|_| gpu()) else { return };
    let scratch = Scratch::new();
    let sentences = sentences().unwrap();
    let text: String = sentences.iter().map(|s| format!("{}\n", s.text)).collect();
    fs::write(scratch.path("text"), text).unwrap();
    let (from, to, json) = (scratch.text("text"), scratch.text("out.npy"), scratch.text("json"));
    let printed = fine(&["embed", &model, "--text", &from, "-o", &to, "--json", &json]);
    assert!(printed.contains("mean"), "{printed}");
    let vectors = npy(&scratch.path("out.npy"));
    assert_eq!(vectors.len(), sentences.len());
    for (vector, sentence) in vectors.iter().zip(&sentences) {
        let cosine = cosine(vector, &sentence.embedding);
        assert!(cosine >= 0.99999, "{}: cosine {cosine}", sentence.text);
        assert!((length(vector) - 1.0).abs() < 1e-6, "{}", sentence.text);
    }
    let json = scratch.json("json");
    assert_eq!((&json["sentences"], &json["columns"]), (&10.into(), &384.into()));
    assert_eq!((&json["weights"], &json["activations"]), (&"as stored".into(), &"f32".into()));
    assert_eq!(json["pooling"], "mean");
    assert_eq!(json["tokens"], 118);
    assert!(json["tokens_per_s"].as_f64().unwrap() > 0.0 && json["adapter"].is_string());

    // Other ways to pool give other vectors, and the length that they have.
    let mut others = vec![vectors];
    for how in ["cls", "max"] {
        fine(&["embed", &model, "--text", &from, "-o", &to, "--pooling", how, "--no-normalize"]);
        let pooled = npy(&scratch.path("out.npy"));
        assert!(pooled.iter().all(|vector| (length(vector) - 1.0).abs() > 0.1), "{how}");
        for other in &others {
            assert!(pooled.iter().zip(other).all(|(a, b)| cosine(a, b) < 0.999), "{how}");
        }
        others.push(pooled);
    }
}

/// A line that is too long is cut, and equals the line that has only what is taken of it. An empty line has a
/// vector as well.
#[test]
fn long_lines_are_cut_with_a_warning() {
    let Some(model) = minilm().filter(|_| gpu()) else { return };
    let scratch = Scratch::new();
    let (from, to) = (scratch.text("text"), scratch.text("out.npy"));
    // 512 tokens, of which two are the tokenizer's.
    let text = format!("{}\n\n{}\n", "word ".repeat(600), "word ".repeat(510));
    fs::write(&from, text).unwrap();
    let output = command(&["embed", &model, "--text", &from, "-o", &to]).output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    let warning = "1 line of `";
    assert!(said.contains(warning) && said.contains("is cut after 512 tokens"), "{said}");
    assert!(said.contains("the first is line 1, which has 602"), "{said}");
    let vectors = npy(&scratch.path("out.npy"));
    assert_eq!(vectors.len(), 3);
    assert_eq!(vectors[0], vectors[2]);
    assert!((length(&vectors[1]) - 1.0).abs() < 1e-6);
}

/// What the model's folder says of pooling holds, unless the command line says otherwise.
#[test]
fn the_folder_says_how_to_pool() {
    if !gpu() {
        return;
    }
    let scratch = Scratch::new();
    let (model, text) = crate::cli::encoder(&scratch);
    let config = Path::new(&model).join("config.json");
    let mut settings: serde_json::Value =
        serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    settings["model_type"] = "bert".into();
    fs::write(&config, settings.to_string()).unwrap();
    let (to, json) = (scratch.text("out.npy"), scratch.text("json"));
    let args = ["embed", &model, "--text", &text, "-o", &to, "--json", &json];
    let pooled = |more: &[&str]| {
        fine(&[&args[..], more].concat());
        scratch.json("json")["pooling"].as_str().unwrap().to_owned()
    };
    assert_eq!(pooled(&[]), "mean");
    let folder = Path::new(&model).join("1_Pooling");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), r#"{"pooling_mode_cls_token": true}"#).unwrap();
    assert_eq!(pooled(&[]), "cls");
    assert_eq!(pooled(&["--pooling", "max"]), "max");
    let config = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#;
    fs::write(folder.join("config.json"), config).unwrap();
    let said = refused(&args[..6]);
    assert!(said.contains("pooling by cls_token and mean_tokens"), "{said}");
    assert!(said.contains("--pooling"), "{said}");
}

#[test]
fn what_gives_no_vectors_is_refused_by_name() {
    let scratch = Scratch::new();
    let (text, empty, to) = (scratch.text("text"), scratch.text("empty"), scratch.text("out.npy"));
    fs::write(&text, "A sentence.\n").unwrap();
    fs::write(&empty, "").unwrap();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../lowbit-models/tests/fixtures/models");
    let (bert, llama) = (format!("{fixtures}/bert"), format!("{fixtures}/llama"));
    let missing = scratch.text("missing");
    let inside = scratch.text("missing/out.npy");
    for (model, text, to, named) in [
        (&missing, &text, &to, "missing"),
        (&bert, &missing, &to, "missing"),
        (&bert, &empty, &to, "contains no text"),
        (&bert, &text, &inside, "does not exist"),
        (&bert, &text, &text, "are the same file"),
    ] {
        let said = refused(&["embed", model, "--text", text, "-o", to]);
        assert!(said.contains(named), "{said}");
    }
    let said = refused(&["embed", &bert, "--text", &text, "-o", &to, "--pooling", "sum"]);
    assert!(said.contains("none of mean, cls and max"), "{said}");
    if gpu() {
        let said = refused(&["embed", &llama, "--text", &text, "-o", &to]);
        assert!(said.contains("llama is a language model"), "{said}");
        assert!(said.contains("lowbit generate"), "{said}");
        let said = refused(&["embed", &bert, "--text", &text, "-o", &to]);
        assert!(said.contains("tokenizer"), "{said}");
    }
    assert_eq!(scratch.names(), ["empty", "text"]);
}

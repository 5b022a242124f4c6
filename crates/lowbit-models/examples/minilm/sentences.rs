//! The ten sentences, their reference embeddings, and how alike embeddings are.

use lowbit_models::bert::Error;

/// One sentence of `tests/fixtures/minilm_reference.json`.
#[derive(serde::Deserialize)]
pub struct Sentence {
    /// Two sentences of one number paraphrase each other.
    pub pair: u32,
    pub text: String,
    /// The f32 embedding by an independent forward pass.
    pub embedding: Vec<f32>,
}

/// The fixture.
pub fn sentences() -> Result<Vec<Sentence>, Error> {
    #[derive(serde::Deserialize)]
    struct Fixture {
        sentences: Vec<Sentence>,
    }
    let text = include_str!("../../tests/fixtures/minilm_reference.json");
    Ok(serde_json::from_str::<Fixture>(text)?.sentences)
}

/// The cosine of the angle between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The mean cosine of the 5 paraphrase pairs, and of the 40 pairs of sentences that
/// do not belong together.
pub fn alike(sentences: &[Sentence], embeddings: &[Vec<f32>]) -> (f64, f64) {
    let (mut same, mut other) = (Vec::new(), Vec::new());
    for j in 0..sentences.len() {
        for i in 0..j {
            let list = if sentences[i].pair == sentences[j].pair { &mut same } else { &mut other };
            list.push(cosine(&embeddings[i], &embeddings[j]));
        }
    }
    (mean(&same), mean(&other))
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

//! The ten sentences, their reference embeddings, and the similarity of embeddings.

/// A sentence of `minilm_reference.json`.
#[derive(serde::Deserialize)]
pub struct Sentence {
    /// Two sentences with the same number paraphrase each other.
    pub pair: u32,
    pub text: String,
    /// The f32 embedding that an independent implementation computed.
    pub embedding: Vec<f32>,
}

/// Returns the sentences of the fixture.
pub fn sentences() -> serde_json::Result<Vec<Sentence>> {
    #[derive(serde::Deserialize)]
    struct Fixture {
        sentences: Vec<Sentence>,
    }
    let text = include_str!("../../lowbit-models/tests/fixtures/minilm_reference.json");
    Ok(serde_json::from_str::<Fixture>(text)?.sentences)
}

/// Returns the cosine of the angle between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Returns the mean cosine of the 5 paraphrase pairs, and of the 40 pairs of unrelated sentences.
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

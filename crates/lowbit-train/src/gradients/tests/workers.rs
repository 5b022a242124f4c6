use super::normal;
use crate::gradients::{Answer, GradientError, Method, Qsgd, TensorId, Worker, Workers};

const TENSOR: TensorId = TensorId { number: 3, rows: 20, columns: 30 };

fn lossy() -> [Method; 6] {
    [
        Method::Sign,
        Method::TopK { fraction: 0.02 },
        Method::Qsgd(Qsgd::new(2)),
        Method::Qsgd(Qsgd::new(4)),
        Method::Qsgd(Qsgd::new(8)),
        Method::PowerSgd { rank: 2 },
    ]
}

fn gradients(ranks: u64, step: u32) -> Vec<Vec<f32>> {
    (0..ranks).map(|rank| normal(600, 100 * u64::from(step) + rank)).collect()
}

/// Σ sent + Σ residuals = Σ gradients over ranks and steps. A step rounds p, its mean and the new residual,
/// each by 2⁻²⁴ of numbers that are at most the residual before and after and the gradient.
#[test]
fn nothing_is_lost_with_feedback() {
    for method in lossy() {
        let mut workers = Workers::new(method, true, 7, 3).unwrap();
        let (mut sent, mut given) = (vec![0.0f64; 600], vec![0.0f64; 600]);
        let mut magnitude = vec![0.0f64; 600];
        for step in 0..20 {
            let gradients = gradients(3, step);
            let mean = workers.reduce(TENSOR, &gradients, step).unwrap();
            for at in 0..600 {
                sent[at] += 3.0 * f64::from(mean[at]);
                for (gradient, worker) in gradients.iter().zip(workers.ranks()) {
                    given[at] += f64::from(gradient[at]);
                    let kept = f64::from(worker.residual(TENSOR)[at]);
                    magnitude[at] += kept.abs() + f64::from(gradient[at].abs());
                }
                magnitude[at] += 3.0 * f64::from(mean[at].abs());
            }
        }
        let mut left = 0.0;
        for at in 0..600 {
            let kept: f64 =
                workers.ranks().iter().map(|worker| f64::from(worker.residual(TENSOR)[at])).sum();
            let off = (sent[at] + kept - given[at]).abs();
            let allowed = 6.0 * magnitude[at] * f64::from(f32::EPSILON);
            assert!(off <= allowed, "{method:?}: number {at} is off by {off} > {allowed}");
            left += kept.abs();
        }
        // Otherwise this test would not see a residual that is ignored.
        assert!(left > 1.0, "{method:?} drops nothing");
    }
}

#[test]
fn without_feedback_nothing_is_kept() {
    for method in lossy() {
        let mut workers = Workers::new(method, false, 7, 2).unwrap();
        workers.reduce(TENSOR, &gradients(2, 0), 0).unwrap();
        assert!(workers.ranks()[0].residual(TENSOR).iter().all(|&kept| kept == 0.0));
    }
}

/// All ranks see the same bits, whatever they know of each other.
#[test]
fn ranks_agree() {
    for method in lossy() {
        let mut ranks: Vec<Worker> =
            (0..4).map(|rank| Worker::new(method, true, 7, rank).unwrap()).collect();
        let mut simulated = Workers::new(method, true, 7, 4).unwrap();
        for step in 0..3 {
            let gradients = gradients(4, step);
            let first: Vec<_> = ranks
                .iter_mut()
                .zip(&gradients)
                .map(|(rank, gradient)| rank.open(TENSOR, gradient, step).unwrap())
                .collect();
            let answers: Vec<_> =
                ranks.iter_mut().map(|rank| rank.answer(TENSOR, &first).unwrap()).collect();
            let second: Vec<_> = answers
                .iter()
                .filter_map(|answer| match answer {
                    Answer::Message(message) => Some(message.clone()),
                    Answer::Mean(_) => None,
                })
                .collect();
            let means: Vec<Vec<f32>> = ranks
                .iter_mut()
                .zip(answers)
                .map(|(rank, answer)| match answer {
                    Answer::Mean(mean) => mean,
                    Answer::Message(_) => rank.close(TENSOR, &second).unwrap(),
                })
                .collect();
            assert!(means.iter().all(|mean| *mean == means[0]), "{method:?}");
            assert_eq!(simulated.reduce(TENSOR, &gradients, step).unwrap(), means[0]);
        }
    }
}

/// Plain gradients are exact, and one rank's mean is its gradient.
#[test]
fn plain_is_the_mean() {
    let mut workers = Workers::new(Method::Plain, false, 7, 2).unwrap();
    let tensor = TensorId { number: 0, rows: 1, columns: 3 };
    let gradients = [vec![1.0, 2.0, -3.0], vec![3.0, 2.0, 4.0]];
    assert_eq!(workers.reduce(tensor, &gradients, 0).unwrap(), [2.0, 2.0, 0.5]);
    assert_eq!(workers.bytes_sent(), 12);
    let short = [vec![1.0, 2.0, 3.0], vec![1.0]];
    let error = workers.reduce(tensor, &short, 0).unwrap_err();
    assert_eq!(error, GradientError::Ranks { rank: 1, need: 3, have: 1 });
}

#[test]
fn residuals_survive_a_checkpoint() {
    for method in lossy() {
        let mut workers = Workers::new(method, true, 7, 2).unwrap();
        workers.reduce(TENSOR, &gradients(2, 0), 0).unwrap();
        let mut restored = Workers::new(method, true, 7, 2).unwrap();
        for (from, to) in workers.ranks().iter().zip(restored.ranks_mut()) {
            let parts = from.export();
            let part = |name: &str| {
                parts.iter().find(|(known, _)| known == name).map(|(_, values)| values.as_slice())
            };
            to.import(&[TENSOR], part).unwrap();
        }
        let next = gradients(2, 1);
        let want = workers.reduce(TENSOR, &next, 1).unwrap();
        assert_eq!(restored.reduce(TENSOR, &next, 1).unwrap(), want, "{method:?}");
    }
}

/// Counterexample 2 of Karimireddy et al.: f(x) = ε|x₁ + x₂| + |x₁ − x₂| from (1, 1). The sign of every
/// subgradient is ±(1, −1), so that signs alone never change x₁ + x₂ and f stays at 2ε; with feedback
/// f comes down to the optimum of 0. Steps are 0.1/√t; the theorem's bound is O(1/√t).
#[test]
fn the_counterexample_to_signs() {
    const EPSILON: f32 = 0.5;
    let value = |x: &[f32]| EPSILON * (x[0] + x[1]).abs() + (x[0] - x[1]).abs();
    let sign = |x: f32| if x < 0.0 { -1.0 } else { 1.0 };
    let run = |feedback: bool| {
        let mut workers = Workers::new(Method::Sign, feedback, 1, 1).unwrap();
        let tensor = TensorId { number: 0, rows: 1, columns: 2 };
        let mut x = vec![1.0f32, 1.0];
        for step in 0..20_000u32 {
            let (along, across) = (EPSILON * sign(x[0] + x[1]), sign(x[0] - x[1]));
            let gradient = vec![along + across, along - across];
            let sent = workers.reduce(tensor, &[gradient], step).unwrap();
            let rate = 0.1 / f64::from(step + 1).sqrt() as f32;
            x.iter_mut().zip(sent).for_each(|(x, sent)| *x -= rate * sent);
        }
        value(&x)
    };
    assert!(run(false) >= 2.0 * EPSILON * 0.999, "signs alone reached {}", run(false));
    assert!(run(true) < 0.02 * 2.0 * EPSILON, "with feedback f is {}", run(true));
}

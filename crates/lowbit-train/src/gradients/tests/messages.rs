use super::{normal, rounding};
use crate::gradients::{GradientError, Method, Qsgd};

fn methods() -> Vec<Method> {
    let qsgd = |bits, bucket| Method::Qsgd(Qsgd { bits, bucket });
    let mut methods = vec![Method::Plain, Method::Sign, qsgd(2, 512), qsgd(4, 7), qsgd(8, 1)];
    methods.extend([0.01, 0.5, 1.0].map(|fraction| Method::TopK { fraction }));
    methods
}

/// The table at the top of the module.
#[test]
fn bytes_on_the_wire_are_those_of_the_formula() {
    for len in [0usize, 1, 3, 8, 511, 512, 513, 1027] {
        let v = normal(len, 2);
        for method in methods() {
            let want = match method {
                Method::Qsgd(Qsgd { bits, bucket }) => {
                    4 * len.div_ceil(bucket) + (bits as usize * len).div_ceil(8)
                }
                Method::Sign => 4 + len.div_ceil(8),
                Method::TopK { fraction } => 8 * (fraction * len as f64).ceil() as usize,
                _ => 4 * len,
            };
            let message = method.encode(&v, 0, &rounding()).unwrap();
            assert_eq!(message.len(), want, "{method:?} of {len}");
            assert_eq!(method.bytes(1, len), want, "{method:?} of {len}");
            assert_eq!(method.decode(&message, len).unwrap().len(), len);
        }
    }
}

#[test]
fn what_is_not_finite_is_an_error() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let v = [1.0, 2.0, bad, bad];
        for method in methods() {
            let error = method.encode(&v, 0, &rounding()).unwrap_err();
            assert!(matches!(error, GradientError::NonFinite { index: 2, .. }), "{error}");
        }
    }
}

#[test]
fn damaged_messages_are_errors() {
    let v = normal(20, 3);
    for method in methods() {
        let mut message = method.encode(&v, 0, &rounding()).unwrap();
        message.push(0);
        let error = method.decode(&message, v.len()).unwrap_err();
        assert!(matches!(error, GradientError::WrongLength { .. }), "{error}");
    }
    let top = Method::TopK { fraction: 0.05 };
    let mut message = top.encode(&v, 0, &rounding()).unwrap();
    message[..4].copy_from_slice(&20u32.to_le_bytes());
    assert_eq!(top.decode(&message, 20), Err(GradientError::BadIndex { index: 20, len: 20 }));
}

#[test]
fn parameters_are_checked() {
    let qsgd = |bits, bucket| Method::Qsgd(Qsgd { bits, bucket });
    for bad in [qsgd(3, 512), qsgd(4, 0), qsgd(16, 1)] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
    for fraction in [0.0, -1.0, 1.1, f64::NAN] {
        assert!(Method::TopK { fraction }.check().is_err(), "{fraction}");
    }
    assert!(Method::PowerSgd { rank: 0 }.check().is_err());
    assert!(methods().iter().all(|method| method.check().is_ok()));
}

#[test]
fn signs_by_hand() {
    let v = [1.0, -2.0, 0.0, -0.0, 1e-40, -1e-40, 3.0, -4.0, -6.0];
    let message = Method::Sign.encode(&v, 0, &rounding()).unwrap();
    let mean = 16.0f32 / 9.0;
    assert_eq!(message[..4], mean.to_le_bytes());
    assert_eq!(message[4..], [0b1000_0010, 1]);
    let signs = [1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0];
    assert_eq!(Method::Sign.decode(&message, 9).unwrap(), signs.map(|sign: f32| sign * mean));
}

#[test]
fn the_greatest_are_sent_and_ties_keep_the_lowest() {
    let v = [1.0, -3.0, 3.0, 0.5, -3.0, 2.0];
    let sent = |fraction| {
        let method = Method::TopK { fraction };
        method.decode(&method.encode(&v, 0, &rounding()).unwrap(), 6).unwrap()
    };
    assert_eq!(sent(0.3), [0.0, -3.0, 3.0, 0.0, 0.0, 0.0]);
    assert_eq!(sent(0.01), [0.0, -3.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(sent(1.0), v);
}

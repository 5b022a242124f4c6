use serde::Deserialize;

/// The reason why weights cannot be pruned so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// A parameter is out of range.
    #[error("{what} is {value}; it must be {allowed}")]
    BadParameter {
        /// The parameter.
        what: &'static str,
        /// Its value.
        value: String,
        /// The values that are possible.
        allowed: &'static str,
    },
}

/// When masks are made, and how many weights they prune.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Schedule {
    /// All at once, after a step.
    OneShot {
        /// The step.
        at: u32,
    },
    /// More and more from one step to another: `s = s_f · (1 − (1 − t/T)³)` (Zhu and Gupta 2017, arXiv
    /// 1710.01878).
    Gradual {
        /// The first step.
        from: u32,
        /// The last step.
        to: u32,
        /// Steps between two masks.
        every: u32,
    },
    /// The full sparsity from a step on, with a new mask every few steps.
    Constant {
        /// The first step.
        from: u32,
        /// Steps between two masks.
        every: u32,
    },
}

impl Schedule {
    /// Checks the parameters.
    ///
    /// # Errors
    /// Returns [`PruneError::BadParameter`].
    pub fn check(&self) -> Result<(), PruneError> {
        let (every, ordered) = match *self {
            Self::OneShot { .. } => (1, true),
            Self::Gradual { from, to, every } => (every, from < to),
            Self::Constant { every, .. } => (every, true),
        };
        let bad =
            |what, value: String, allowed| Err(PruneError::BadParameter { what, value, allowed });
        if every == 0 {
            return bad("the number of steps between masks", "0".into(), "at least 1");
        }
        if !ordered {
            return bad("the end of gradual pruning", format!("{self:?}"), "after its beginning");
        }
        Ok(())
    }

    /// Returns the fraction of the final sparsity that a mask made after `step` has, or `None` if none is
    /// made then.
    pub fn fraction(&self, step: u32) -> Option<f64> {
        match *self {
            Self::OneShot { at } => (step == at).then_some(1.0),
            Self::Gradual { from, to, every } => {
                let due = step == to || (step >= from && (step - from).is_multiple_of(every));
                if step > to || !due {
                    return None;
                }
                let done = f64::from(step - from) / f64::from(to - from);
                Some(1.0 - (1.0 - done).powi(3))
            }
            Self::Constant { from, every } => {
                (step >= from && (step - from).is_multiple_of(every)).then_some(1.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cubic_schedule() {
        let gradual = Schedule::Gradual { from: 100, to: 210, every: 50 };
        let masks: Vec<_> = (0..300).filter(|&step| gradual.fraction(step).is_some()).collect();
        assert_eq!(masks, [100, 150, 200, 210]);
        assert_eq!(gradual.fraction(100), Some(0.0));
        assert_eq!(gradual.fraction(210), Some(1.0));
        // Half of the time prunes 7/8.
        let half = Schedule::Gradual { from: 0, to: 100, every: 50 };
        assert_eq!(half.fraction(50), Some(0.875));
    }

    #[test]
    fn other_schedules() {
        let due = |schedule: Schedule| -> Vec<u32> {
            (0..30).filter(|&step| schedule.fraction(step) == Some(1.0)).collect()
        };
        assert_eq!(due(Schedule::OneShot { at: 7 }), [7]);
        assert_eq!(due(Schedule::Constant { from: 5, every: 10 }), [5, 15, 25]);
        assert!(Schedule::Gradual { from: 5, to: 5, every: 1 }.check().is_err());
        assert!(Schedule::Constant { from: 5, every: 0 }.check().is_err());
        assert!(Schedule::Gradual { from: 5, to: 6, every: 1 }.check().is_ok());
    }
}

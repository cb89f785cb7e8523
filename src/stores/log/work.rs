//! Counts the work of opening a log in steps instead of seconds, for the tests that bound it. In an
//! ordinary build nothing is counted.
//!
//! A step is a record parsed, an image compared with another, a base looked at for a change, or 64
//! blocks written. Steps are counted for each loader, since several threads work for one.

/// Steps of one loader.
#[derive(Debug, Default)]
pub(super) struct Steps {
    #[cfg(test)]
    steps: crate::base::sync::Counter,
}

impl Steps {
    /// Counts `steps` more.
    #[inline(always)]
    pub(super) fn add(&self, steps: usize) {
        #[cfg(test)]
        self.steps.add(steps as u64);
        let _ = steps;
    }

    /// Steps so far.
    #[cfg(test)]
    pub(super) fn get(&self) -> u64 {
        self.steps.get()
    }
}

//! The settings of an allocator, however it is built.

use crate::values::class::{CLASSES, Placement};

/// Settings that no store writes down: they must be given whenever an allocator is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Number of shards, if given.
    pub shards: Option<usize>,
    /// The placement of each class.
    pub placements: [Option<Placement>; CLASSES],
    /// Whether committed blocks may be freed without a transaction.
    pub plain_frees: bool,
}

/// The methods of a store's options that change its `settings`.
macro_rules! setters_of_settings {
    () => {
        /// See [`Builder::shards`](crate::Builder::shards).
        #[must_use]
        pub fn shards(mut self, count: usize) -> Self {
            self.settings.shards = Some(count);
            self
        }

        /// See [`Builder::placement`](crate::Builder::placement). Must be set at each opening.
        #[must_use]
        pub fn placement(mut self, class: crate::Class, placement: crate::Placement) -> Self {
            self.settings.placements[class.index()] = Some(placement);
            self
        }

        /// Lets committed blocks be freed without a transaction: see
        /// [`Builder::allow_plain_frees`](crate::Builder::allow_plain_frees), which names the
        /// risks. Must be set at each opening.
        #[must_use]
        pub fn allow_plain_frees(mut self) -> Self {
            self.settings.plain_frees = true;
            self
        }
    };
}
pub(crate) use setters_of_settings;

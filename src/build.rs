//! Constructors of allocators.

use crate::allocator::Allocator;
use crate::base::geometry::{Geometry, Native};
use crate::base::heap::reserved;
use crate::builder::Builder;
use crate::gate::Gate;
use crate::index::Bitmap;
use crate::space::ledger::{Committed, Keeper, Ledger};
use crate::values::error::ConfigError;
use crate::values::plain_bitmap::on_device;
use std::sync::Arc;

impl Builder {
    /// An allocator with all blocks free. O(blocks): the bitmap is written once.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn build(self) -> Result<Allocator, ConfigError> {
        Ok(Allocator { core: Arc::new(self.core_from_words(|_| <Native as Geometry>::FULL)?) })
    }

    /// An allocator with all blocks allocated, to be filled with
    /// [`mark_free`](Allocator::mark_free). O(shards): takes no memory for blocks before they are
    /// freed.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn build_allocated(self) -> Result<Allocator, ConfigError> {
        let core = self.core_of(|blocks, shards| {
            let index = Bitmap::none_free(blocks, shards.height())?;
            let count = shards.count(index.leaf_count());
            let mut counts = reserved(count)?;
            counts.resize(count, 0);
            Ok((index, counts))
        });
        Ok(Allocator { core: Arc::new(core?) })
    }

    /// An allocator whose state is `allocated`: bit i % 64 of word i / 64 is block i, 1 =
    /// allocated. Bits beyond the last block are ignored. O(blocks), on all threads of the caller's
    /// rayon pool. Writes no memory where nothing is free.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn build_from_bitmap(self, allocated: &[u64]) -> Result<Allocator, ConfigError> {
        Ok(Allocator { core: Arc::new(self.core_from_bitmap(allocated)?) })
    }

    /// As [`Builder::build_from_bitmap`], and keeps the committed state beside the index, in the
    /// memory of `allocated`. For stores that cannot see by themselves whether a transaction
    /// contradicts the durable state. [`Transaction::freeze`](crate::Transaction::freeze) and
    /// [`commit`](crate::Transaction::commit) compare with it, O(blocks of the transaction / 64),
    /// before anything is written; [`Delta::conflict`](crate::Delta::conflict) has the result. Only
    /// transactions free committed blocks ([`FreeError::Committed`](crate::FreeError::Committed)).
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn build_with_ledger(self, mut allocated: Vec<u64>) -> Result<Allocator, ConfigError> {
        let (blocks, plain_frees) = (self.blocks, self.settings.plain_frees);
        let mut core = self.core_from_bitmap(&allocated)?;
        let last = allocated.len() - 1; // there is a block
        allocated[last] &= on_device(blocks, last);
        let ledger = Arc::new(Ledger::new(allocated));
        let keeper = Keeper::Transactions;
        core.space.committed = Some(Committed { ledger, keeper, plain_frees });
        Ok(Allocator { core: Arc::new(core) })
    }

    /// An allocator whose state is that of `ledger`, which a store keeps. Durable frees wait at
    /// `gate`, if there is one.
    pub(crate) fn build_of_store(
        self,
        ledger: Arc<Ledger>,
        gate: Option<Gate>,
    ) -> Result<Allocator, ConfigError> {
        let plain_frees = self.settings.plain_frees;
        let mut core = self.core_from_ledger(&ledger)?;
        let committed = Some(Committed { ledger, keeper: Keeper::Store, plain_frees });
        (core.space.committed, core.gate) = (committed, gate);
        Ok(Allocator { core: Arc::new(core) })
    }

    /// An allocator without a store whose state is that of `ledger`.
    pub(crate) fn build_from_ledger(self, ledger: &Ledger) -> Result<Allocator, ConfigError> {
        Ok(Allocator { core: Arc::new(self.core_from_ledger(ledger)?) })
    }
}

//! Layer 5: blocks that only one class gets, when nothing else is free.
//!
//! A reserve is a promise (`escrow.rs`) that is made to a class when the allocator is made. What was used of it is
//! owed: the next blocks that anybody frees go into escrow in its stead, before somebody else gets them.

use crate::class::CLASSES;
use crate::core::Core;
use crate::cursor::Cursor;
use crate::error::AllocError;
use crate::extent::{Extent, ExtentList, Extents};
use crate::request::{Effort, Request};
use crate::sync::{AtomicWord, Site};

/// The reserves of all classes.
#[derive(Debug)]
pub struct Reserves([Reserve; CLASSES]);

#[derive(Debug)]
struct Reserve {
    /// Tokens of the escrow that the class has.
    tokens: AtomicWord<u64>,
    /// Tokens that it should have besides.
    owed: AtomicWord<u64>,
}

impl Reserves {
    /// Reserves of nothing.
    pub fn new() -> Self {
        let nothing = || AtomicWord::new(0);
        Self(std::array::from_fn(|_| Reserve { tokens: nothing(), owed: nothing() }))
    }
}

impl Reserve {
    /// Takes `tokens` tokens, or, if `some`, as many as there are; how many.
    fn take(&self, tokens: u64, some: bool) -> u64 {
        let mut there = self.tokens.load(Site::Spare);
        loop {
            let taken = tokens.min(there);
            if taken == 0 || (taken < tokens && !some) {
                return 0;
            }
            match self.tokens.compare_exchange(there, there - taken, Site::Spare) {
                Ok(_) => return taken,
                Err(now) => there = now,
            }
        }
    }

    /// Takes up to `most` of what is owed: how much, and whether that was all.
    fn take_owed(&self, most: u64) -> (u64, bool) {
        let mut owed = self.owed.load(Site::Spare);
        while owed > 0 {
            let part = owed.min(most);
            match self.owed.compare_exchange(owed, owed - part, Site::Spare) {
                Ok(_) => return (part, part == owed),
                Err(now) => owed = now,
            }
        }
        (0, false)
    }
}

impl Core {
    /// Gives class `class` a reserve of `blocks` blocks; what is not free is owed.
    pub fn make_reserve(&self, cursor: &mut Cursor, class: usize, blocks: u64) {
        let reserve = &self.reserves.0[class];
        let now = blocks.min(self.free_blocks());
        let made = if now > 0 && self.promise(cursor, now).is_ok() { now } else { 0 };
        reserve.tokens.fetch_add(made, Site::Spare);
        self.owe(reserve, blocks - made);
    }

    fn owe(&self, reserve: &Reserve, blocks: u64) {
        if blocks == 0 {
            return;
        }
        // So that frees look; before anybody can pay and have them look away.
        self.aside.activate();
        if reserve.owed.fetch_add(blocks, Site::Spare) > 0 {
            self.aside.deactivate();
        }
    }

    /// Meets `request` from the reserve of its class and what is free, or answers with `failed` again.
    #[cold]
    pub fn allocate_of_reserve(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        list: &mut impl ExtentList,
        failed: AllocError,
    ) -> Result<Effort, AllocError> {
        let reserve = &self.reserves.0[request.class.index()];
        let space = matches!(failed, AllocError::NoSpace { .. } | AllocError::NoContiguous { .. });
        if !space || reserve.tokens.load(Site::Spare) == 0 {
            return Err(failed);
        }
        let (before, mut effort) = (list.extents().len(), Effort::default());
        if request.takes_any_blocks() {
            let part = request.scattered().partial();
            // If it finds nothing, all of it is to come from the reserve.
            let _ = self.allocate_now(cursor, &part, list, &mut effort);
        }
        let had: u64 = list.extents()[before..].iter().map(|extent| extent.len).sum();
        let missing = request.len - had;
        let tokens = reserve.take(missing, request.partial);
        let rest = Request { len: tokens, ..*request };
        let drawn = match tokens {
            // All of it was free by now.
            0 if missing == 0 || (had > 0 && request.partial) => Ok(()),
            0 => Err(failed),
            _ => self.draw(&rest, list, failed),
        };
        match drawn {
            Ok(()) => {
                self.owe(reserve, tokens);
                Ok(effort)
            }
            Err(error) => {
                reserve.tokens.fetch_add(tokens, Site::Spare);
                for &extent in &list.extents()[before..] {
                    self.let_out_undiscarded(cursor.lane, extent);
                }
                list.cut(before);
                Err(error)
            }
        }
    }

    /// The same for one extent.
    pub fn one_of_reserve(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        failed: AllocError,
    ) -> Result<Extent, AllocError> {
        let mut extents = Extents::new();
        self.allocate_of_reserve(cursor, request, &mut extents, failed)?;
        Ok(extents[0])
    }

    /// Keeps as much of `start..start + len`, which is being freed, as reserves are owed. What is left.
    pub fn refill_reserves(&self, start: u64, len: u64) -> (u64, u64) {
        let (mut start, mut len) = (start, len);
        for reserve in &self.reserves.0 {
            let (part, all) = if len == 0 { (0, false) } else { reserve.take_owed(len) };
            if part > 0 {
                let put = self.escrow.put_blocks(start, part);
                // The token last, as ever.
                reserve.tokens.fetch_add(put, Site::Spare);
                self.owe(reserve, part - put);
                (start, len) = (start + part, len - part);
            }
            if all {
                self.aside.deactivate();
            }
        }
        (start, len)
    }
}

//! Makes the device longer by a quarter and shorter again, while the workers work.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use freemap::{CloseError, ResizeError};
use serde_json::{Value, json};

use super::mover::{Moved, Mover};
use super::store::Store;
use super::{Failure, Options};

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(400);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Resized {
    grown: u64,
    shrunk: u64,
    given_up: u64,
    moved: Moved,
    /// What the store said when it refused last.
    refused: Option<String>,
}

/// The length that the device is never made shorter than.
pub fn shortest(options: &Options, store: &Store) -> u64 {
    let blocks = store.allocator().blocks();
    if options.resize { options.blocks.unwrap_or(blocks).max(store.foreign_end()) } else { blocks }
}

/// Works until `stop`.
pub fn run(store: &Store, shortest: u64, stop: &AtomicBool) -> Result<Resized, Failure> {
    let mut mover = Mover::new(store, stop);
    let mut done = Resized::default();
    while !mover.is_over() {
        if store.allocator().blocks() <= shortest {
            store.grow(shortest + shortest.div_ceil(4))?;
            done.grown += 1;
        } else if shrink(store, shortest, &mut mover, &mut done)? {
            done.shrunk += 1;
        } else {
            done.given_up += 1;
        }
        mover.rest(PAUSE);
    }
    done.moved = mover.moved;
    Ok(done)
}

/// Whether it came to that.
fn shrink(
    store: &Store,
    blocks: u64,
    mover: &mut Mover<'_>,
    done: &mut Resized,
) -> Result<bool, Failure> {
    let shrink = match store.allocator().shrink(blocks) {
        Ok(shrink) => shrink,
        // A region there is being emptied for a run.
        Err(ResizeError::Close(CloseError::Busy | CloseError::Closed { .. })) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if !mover.empty(shrink.tail(), || shrink.is_empty())? {
        return Ok(false);
    }
    match store.shrink(shrink) {
        Ok(()) => Ok(true),
        Err(failed) => {
            done.refused = Some(failed.into_error().to_string());
            Ok(false)
        }
    }
}

impl Resized {
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let Self { grown, shrunk, given_up, moved, refused } = self;
        let times = format!("{grown} times longer, {shrunk} times shorter, {given_up} given up");
        let refused = refused.iter().map(|refused| ("refused", refused.clone()));
        let moved = format!("{} blocks of {} objects", moved.blocks, moved.objects);
        [("resized", times), ("moved for that", moved)].into_iter().chain(refused).collect()
    }

    pub fn json(&self) -> Value {
        json!({
            "grown": self.grown,
            "shrunk": self.shrunk,
            "given_up": self.given_up,
            "moved_blocks": self.moved.blocks,
            "moved_objects": self.moved.objects,
            "refused": self.refused,
        })
    }
}

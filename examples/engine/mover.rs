//! Moves objects out of a closed part of the device, by the transactions that everybody makes, beside
//! the workers: what `defrag` and `resize` have in common.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use freemap::{Extent, Handle};

use super::Failure;
use super::store::{Relocated, Store};

/// Passes over what is left that may come to nothing, one after the other, and the pause between them:
/// workers commit or give up, readers go.
const IDLE_PASSES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// What was moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    pub objects: u64,
    pub blocks: u64,
    /// Objects that a worker deleted or rewrote before it came to them.
    pub gone: u64,
    /// Objects for which there was no room elsewhere, each as often as it was tried.
    pub no_room: u64,
}

pub struct Mover<'a> {
    store: &'a Store,
    handle: Handle,
    stop: &'a AtomicBool,
    buffer: Vec<u8>,
    pub moved: Moved,
}

impl<'a> Mover<'a> {
    pub fn new(store: &'a Store, stop: &'a AtomicBool) -> Self {
        let handle = store.allocator().handle();
        Self { store, handle, stop, buffer: Vec::new(), moved: Moved::default() }
    }

    /// Moves away what lies in `region`, which the caller has closed, until `is_empty` says that nobody
    /// owns a block of it. Whether that came: it gives up if nothing gets on, or if the run is over. Every
    /// pass that moves something leaves less, so it ends.
    pub fn empty(&mut self, region: Extent, is_empty: impl Fn() -> bool) -> Result<bool, Failure> {
        let mut idle = 0;
        while !is_empty() {
            if self.is_over() || idle == IDLE_PASSES {
                return Ok(false);
            }
            idle = if self.pass(region)? { 0 } else { idle + 1 };
            if idle > 0 {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(true)
    }

    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps for `pause`, or until the run is over.
    pub fn rest(&self, pause: Duration) {
        let pauses = pause.as_millis() / PAUSE.as_millis();
        for _ in 0..pauses {
            if self.is_over() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Goes once through the objects in `region`; whether one was moved.
    fn pass(&mut self, region: Extent) -> Result<bool, Failure> {
        let before = self.moved.objects;
        for id in self.store.objects_in(region) {
            if self.is_over() {
                break;
            }
            match self.store.relocate(&mut self.handle, id, region, &mut self.buffer)? {
                Relocated::Moved(blocks) => {
                    self.moved.objects += 1;
                    self.moved.blocks += blocks;
                }
                Relocated::Gone => self.moved.gone += 1,
                Relocated::NoRoom => self.moved.no_room += 1,
            }
        }
        Ok(self.moved.objects > before)
    }
}

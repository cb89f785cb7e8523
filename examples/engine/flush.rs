//! Flushes of a file that threads share.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub struct SharedFlush {
    file: Arc<File>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// One more than have ended, while one is under way.
    begun: u64,
    ended: u64,
    /// How many callers got what they asked for.
    served: u64,
    /// Why one failed: the next could succeed without the bytes that this one lost, so there is none.
    failed: Option<String>,
}

impl SharedFlush {
    pub fn new(file: Arc<File>) -> Self {
        Self { file, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many callers were served, and by how many flushes.
    pub fn figures(&self) -> (u64, u64) {
        let state = self.lock();
        (state.served, state.ended)
    }

    /// Returns when all that was written before the call is durable.
    pub fn flush(&self) -> io::Result<()> {
        let mut state = self.lock();
        // One that is under way may have missed what was written last.
        let enough = state.begun + 1;
        while state.ended < enough {
            if let Some(failed) = &state.failed {
                return Err(io::Error::other(failed.clone()));
            }
            if state.begun > state.ended {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.begun += 1;
            drop(state);
            let flushed = self.file.sync_data();
            state = self.lock();
            match flushed {
                Ok(()) => state.ended += 1,
                Err(error) => state.failed = Some(format!("data file: {error}")),
            }
            self.changed.notify_all();
        }
        state.served += 1;
        Ok(())
    }
}

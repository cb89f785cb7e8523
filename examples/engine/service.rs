//! The threads that look after the space while the workers work.

use std::sync::atomic::AtomicBool;
use std::thread::{Scope, ScopedJoinHandle};

use serde_json::{Value, json};

use super::defrag::{self, Defragmented};
use super::discard::{self, Discarded};
use super::resize::{self, Resized};
use super::store::Store;
use super::{Failure, Options};

type Running<'scope, T> = Option<ScopedJoinHandle<'scope, Result<T, Failure>>>;

/// Those that the options ask for, at work.
pub struct Services<'scope> {
    defrag: Running<'scope, Defragmented>,
    discard: Running<'scope, Discarded>,
    resize: Running<'scope, Resized>,
}

/// What came of them.
#[derive(Debug, Default)]
pub struct Served {
    defrag: Option<Defragmented>,
    discard: Option<Discarded>,
    resize: Option<Resized>,
}

impl<'scope> Services<'scope> {
    pub fn start<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        options: &Options,
        store: &'env Store,
        stop: &'env AtomicBool,
    ) -> Self {
        let shortest = resize::shortest(options, store);
        let resize = options.resize;
        Self {
            defrag: options.defrag.map(|run| scope.spawn(move || defrag::run(store, run, stop))),
            discard: options.discard.then(|| scope.spawn(move || discard::run(store, stop))),
            resize: resize.then(|| scope.spawn(move || resize::run(store, shortest, stop))),
        }
    }

    /// Whether one has ended: by an error, as long as nobody stopped it.
    pub fn any_finished(&self) -> bool {
        fn finished<T>(running: &Running<'_, T>) -> bool {
            running.as_ref().is_some_and(|thread| thread.is_finished())
        }
        finished(&self.defrag) || finished(&self.discard) || finished(&self.resize)
    }

    /// Waits for all of them, which were told to stop.
    pub fn join(self) -> Result<Served, Failure> {
        fn join<T>(running: Running<'_, T>) -> Result<Option<T>, Failure> {
            let joined = running.map(|thread| thread.join());
            joined.map(|done| done.map_err(|_| "a service panicked".into()).flatten()).transpose()
        }
        let (defrag, discard, resize) = (join(self.defrag), join(self.discard), join(self.resize));
        Ok(Served { defrag: defrag?, discard: discard?, resize: resize? })
    }
}

impl Served {
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let defrag = self.defrag.iter().flat_map(Defragmented::rows);
        let discard = self.discard.iter().flat_map(Discarded::rows);
        defrag.chain(discard).chain(self.resize.iter().flat_map(Resized::rows)).collect()
    }

    pub fn json(&self) -> Value {
        json!({
            "defrag": self.defrag.as_ref().map(Defragmented::json),
            "discard": self.discard.as_ref().map(Discarded::json),
            "resize": self.resize.as_ref().map(Resized::json),
        })
    }
}

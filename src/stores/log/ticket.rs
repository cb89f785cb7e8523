//! The handle of a queued item: where its result will be.

use crate::base::mutant::step;
use crate::base::sync::blocking::Condvar;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

/// Where a result is put. All of it is accessed only under the group's lock; the mutex inside is
/// there because the compiler cannot know that.
#[derive(Debug)]
pub(super) struct Seat<R> {
    pub(super) place: std::sync::Mutex<Place<R>>,
    pub(super) changed: Condvar,
}

#[derive(Debug)]
pub(super) struct Place<R> {
    /// `Some(None)`: the leader panicked.
    pub(super) result: Option<Option<R>>,
    /// A thread is blocked. Without one, a notify would still cost a system call.
    pub(super) blocked: bool,
    pub(super) then: Then<R>,
}

/// What to do, outside the lock, when there is a result.
pub(super) enum Then<R> {
    Nothing,
    Wake(Waker),
    Call(Box<dyn FnOnce(Option<R>) + Send>),
}

impl<R> std::fmt::Debug for Then<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Wake(_) => "Wake",
            Self::Call(_) => "Call",
        })
    }
}

/// A place in the queue. The work is done whether or not a thread waits for it.
#[derive(Debug)]
pub(crate) struct Ticket<R>(pub(super) Arc<Seat<R>>);

impl<R> Seat<R> {
    pub(super) fn place(&self) -> std::sync::MutexGuard<'_, Place<R>> {
        self.place.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts the result; the returned rest must be done without the lock.
    pub(super) fn put(self: &Arc<Self>, result: Option<R>) -> Later<R> {
        let mut place = self.place();
        match std::mem::replace(&mut place.then, Then::Nothing) {
            Then::Call(call) => Later::Call(call, result),
            Then::Wake(waker) => {
                place.result = Some(result);
                Later::Wake(waker)
            }
            Then::Nothing => {
                place.result = Some(result);
                if place.blocked { Later::Notify(self.clone()) } else { Later::Nothing }
            }
        }
    }
}

/// What is left to do after a result was put.
pub(super) enum Later<R> {
    Nothing,
    /// A thread is blocked. Woken under the lock, it would only block on it.
    Notify(Arc<Seat<R>>),
    Wake(Waker),
    Call(Box<dyn FnOnce(Option<R>) + Send>, Option<R>),
}

impl<R> Later<R> {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Notifies threads and calls functions, and returns the wakers.
    pub(super) fn run(all: Vec<Self>) -> VecDeque<Waker> {
        let mut wakers = VecDeque::new();
        for later in all {
            match later {
                Self::Call(call, result) => call(result),
                // [mutant: ResultIsNotTold]
                Self::Notify(seat) => step!(ResultIsNotTold: seat.changed.notify_one()),
                Self::Wake(waker) => wakers.push_back(waker),
                Self::Nothing => {}
            }
        }
        wakers
    }
}

//! Group commit: concurrent committers share one flush.
//!
//! A committer that finds no leader becomes the leader: it takes everything that is queued, does
//! the work for all of it and hands out the results. Then it wakes one of those that came meanwhile
//! to lead next. No dedicated thread is needed: a [`Ticket`] lies in the queue without one, and the
//! next leader serves it.
//!
//! Committers block here; allocations and frees do not come here. The lock is never held during the
//! work.
//!
//! The queue has a limit for submitters that do not wait for their results. A submitter that waits
//! for room is woken when the queue is taken, and leads itself if there is no leader and no
//! flusher.
//!
//! Wakers are foreign code: they are called without the lock, after all other results are
//! delivered, and may commit or flush here again. So a flusher does not count as one while it calls
//! wakers. Wakers that come up meanwhile on the same thread are called afterwards, not within.

use crate::base::mutant::step;
use crate::stores::log::ticket::Place;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use crate::base::sync::blocking::{Condvar, Mutex, ThreadId, lock, wait};
use crate::stores::log::ticket::{Seat, Then, Ticket};

/// A queue of `T`s to be turned into `R`s in groups.
#[derive(Debug)]
pub(crate) struct Group<T, R> {
    pub(super) state: Mutex<State<T, R>>,
    /// Wakes an idle flusher.
    pub(super) arrived: Condvar,
    /// Wakes submitters that wait for room.
    pub(super) taken: Condvar,
    pub(super) room: Room,
}

/// The limit of what submitters may queue that do not wait for their results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Items, at least one.
    pub items: usize,
    /// Bytes of all items, as given by their submitters.
    pub bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { items: 1 << 14, bytes: 16 << 20 }
    }
}

/// What is queued when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// Items.
    pub items: usize,
    /// Bytes of all items.
    pub bytes: u64,
}

#[derive(Debug)]
pub(super) struct State<T, R> {
    pub(super) queue: Vec<Queued<T, R>>,
    /// Bytes of the items in it.
    pub(super) bytes: u64,
    /// A leader is at work.
    pub(super) leading: bool,
    /// Threads blocked in [`Group::wait`], in order of arrival.
    pub(super) waiting: VecDeque<Arc<Seat<R>>>,
    /// Threads in [`Group::serve`]: while there are any, no other thread leads.
    pub(super) flushers: usize,
    /// How many of them have been told to stop.
    pub(super) stopping: usize,
    /// A blocked thread has been woken to lead and is not running yet: one is enough.
    pub(super) called: bool,
    /// A flush was requested while a leader was at work; it then does one more round.
    pub(super) again: bool,
    /// Submitters that wait for room.
    pub(super) wanting: usize,
    /// Threads that call wakers, each with the wakers that it has yet to call.
    pub(super) waking: Vec<(ThreadId, VecDeque<Waker>)>,
}

#[derive(Debug)]
pub(super) struct Queued<T, R> {
    pub(super) item: T,
    pub(super) bytes: u64,
    pub(super) seat: Arc<Seat<R>>,
}

impl<T, R> State<T, R> {
    /// An item larger than the limit is taken alone.
    pub(super) fn has_room(&self, room: Room, bytes: u64) -> bool {
        self.queue.is_empty()
            || self.queue.len() < room.items && self.bytes.saturating_add(bytes) <= room.bytes
    }
}

impl<T, R: 'static> Default for Group<T, R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, R: 'static> Group<T, R> {
    /// An empty queue with the usual room.
    pub(crate) fn new() -> Self {
        Self::with_room(Room::default())
    }

    /// An empty queue.
    pub(crate) fn with_room(room: Room) -> Self {
        let state = State {
            queue: Vec::new(),
            bytes: 0,
            leading: false,
            waiting: VecDeque::new(),
            flushers: 0,
            stopping: 0,
            called: false,
            again: false,
            wanting: 0,
            waking: Vec::new(),
        };
        let (arrived, taken) = (Condvar::new(), Condvar::new());
        Self { state: Mutex::new(state), arrived, taken, room }
    }

    /// Queues `item`, with or without room: for a submitter that waits for the result. It is worked
    /// on when a thread waits for this ticket or a later one, flushes, or serves.
    pub(crate) fn submit(&self, item: T, bytes: u64) -> Ticket<R> {
        self.push(&mut lock(&self.state), item, bytes)
    }

    /// As [`Group::submit`], if there is room.
    pub(crate) fn try_submit(&self, item: T, bytes: u64) -> Result<Ticket<R>, Full> {
        let mut state = lock(&self.state);
        if state.has_room(self.room, bytes) {
            Ok(self.push(&mut state, item, bytes))
        } else {
            Err(Full { items: state.queue.len(), bytes: state.bytes })
        }
    }

    /// As [`Group::submit`], but waits for room. Leads if there is no leader and no flusher.
    pub(crate) fn submit_waiting(
        &self,
        item: T,
        bytes: u64,
        mut work: impl FnMut(Vec<T>) -> Vec<R>,
    ) -> Ticket<R> {
        let mut state = lock(&self.state);
        while !state.has_room(self.room, bytes) {
            if state.leading || state.flushers > 0 {
                state.wanting += 1;
                state = wait(&self.taken, state);
                state.wanting -= 1;
            } else {
                state = self.lead(state, false, &mut work);
                self.pass_on(&mut state);
            }
        }
        self.push(&mut state, item, bytes)
    }

    fn push(&self, state: &mut State<T, R>, item: T, bytes: u64) -> Ticket<R> {
        let place =
            std::sync::Mutex::new(Place { result: None, blocked: false, then: Then::Nothing });
        let seat = Arc::new(Seat { place, changed: Condvar::new() });
        state.queue.push(Queued { item, bytes, seat: seat.clone() });
        state.bytes += bytes;
        if state.flushers > 0 {
            self.arrived.notify_one();
        }
        Ticket(seat)
    }

    /// Bytes of what is queued, and of the places for the results.
    pub(crate) fn bytes(&self) -> usize {
        let state = lock(&self.state);
        let place = size_of::<Queued<T, R>>();
        state.queue.capacity() * place
            + state.queue.len() * size_of::<Seat<R>>()
            + state.bytes as usize
    }

    /// Takes the item out of the queue; `false` if a leader has taken it already. After `true`, no
    /// thread may wait for its result.
    pub(crate) fn withdraw(&self, ticket: &Ticket<R>) -> bool {
        let mut state = lock(&self.state);
        let is_it = |queued: &Queued<T, R>| Arc::ptr_eq(&queued.seat, &ticket.0);
        let Some(index) = state.queue.iter().position(is_it) else { return false };
        let Queued { item, bytes, .. } = state.queue.remove(index);
        state.bytes -= bytes;
        // A flusher may have nothing else to take [mutant: WithdrawnIsNotTold].
        step!(WithdrawnIsNotTold: self.tell_room(&state));
        drop(state);
        drop(item);
        true
    }

    /// Waits for the result, leading if there is no leader and no flusher. `None` if the leader
    /// panicked.
    pub(crate) fn wait(
        &self,
        ticket: &Ticket<R>,
        mut work: impl FnMut(Vec<T>) -> Vec<R>,
    ) -> Option<R> {
        let Ticket(seat) = ticket;
        let mut state = lock(&self.state);
        loop {
            if let Some(result) = seat.place().result.take() {
                // This thread may have been woken to lead, and the next in line sleeps
                // [mutant: LeadIsKept].
                step!(LeadIsKept: self.pass_on(&mut state));
                return result;
            }
            if state.leading || state.flushers > 0 {
                state.waiting.push_back(seat.clone());
                seat.place().blocked = true;
                state = wait(&seat.changed, state);
                seat.place().blocked = false;
                // Perhaps this thread was called. If not, calling another one costs one wake-up
                // [mutant: CallIsKept].
                step!(CallIsKept: state.called = false);
                state.waiting.retain(|other| !Arc::ptr_eq(other, seat));
            } else {
                state = self.lead(state, false, &mut work);
            }
        }
    }

    /// Takes the result if there is one; otherwise `context` is woken when there is.
    pub(crate) fn poll(&self, ticket: &Ticket<R>, context: &mut Context<'_>) -> Poll<Option<R>> {
        // Wakers are foreign code: they are cloned and dropped without a lock of ours, since they
        // may own another ticket.
        let waker = context.waker().clone();
        let state = lock(&self.state);
        let mut place = ticket.0.place();
        if let Some(result) = place.result.take() {
            return Poll::Ready(result);
        }
        let old = std::mem::replace(&mut place.then, Then::Wake(waker));
        drop((place, state));
        drop(old);
        Poll::Pending
    }

    /// Calls `then` with the result when there is one, on the thread that delivers it.
    pub(crate) fn detach(&self, ticket: &Ticket<R>, then: Box<dyn FnOnce(Option<R>) + Send>) {
        let state = lock(&self.state);
        let mut place = ticket.0.place();
        match place.result.take() {
            Some(result) => {
                drop((place, state));
                then(result);
            }
            None => {
                let old = std::mem::replace(&mut place.then, Then::Call(then));
                drop((place, state));
                drop(old);
            }
        }
    }

    /// Tells the flusher that looks at `flag` to stop when the queue is empty.
    pub(crate) fn stop(&self, flag: &AtomicBool) {
        // Under the lock, so that it does not come between the flusher's check and its wait.
        let mut state = lock(&self.state);
        state.stopping += 1;
        flag.store(true, Ordering::Relaxed);
        self.arrived.notify_all();
    }
}

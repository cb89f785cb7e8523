//! Group commit: all who commit at the same time share one flush.
//!
//! Whoever comes while nobody leads becomes the leader: takes everything that is queued, does the
//! work for all of it, hands out the results and, having its own, wakes one of those who came
//! meanwhile to lead next. Nobody needs a thread of his own: a [`Ticket`] lies in the queue without
//! one and is served by whoever leads next.
//!
//! This waits, of course; it is not on the way of allocations and frees. The lock is never held
//! during the work.
//!
//! The queue has a limit for those who do not wait for their results. Who waits for room is told when the
//! queue is taken, and works himself if nobody is there to take it.
//!
//! Wakers are foreign code: they are woken without the lock, after all else is told, and may commit or flush
//! here again. So a flusher does not count as one while it wakes, and those who are to be woken meanwhile
//! on the same thread are woken after, not within.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use crate::base::mutant::{Mutant, mutated};
use crate::base::sync::blocking::{
    Condvar, Guard, Mutex, ThreadId, lock, this_thread, wait, wait_for,
};

/// A queue of `T`s to be turned into `R`s in groups.
#[derive(Debug)]
pub(crate) struct Group<T, R> {
    state: Mutex<State<T, R>>,
    /// Wakes a flusher that found nothing to do.
    arrived: Condvar,
    /// Wakes those who wait for room.
    taken: Condvar,
    room: Room,
}

/// How much may be queued by those who do not wait for their results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Items, one at least.
    pub items: usize,
    /// Bytes of them all, as those say who queue them.
    pub bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { items: 1 << 14, bytes: 16 << 20 }
    }
}

/// What is queued already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// Items.
    pub items: usize,
    /// Bytes of them all.
    pub bytes: u64,
}

#[derive(Debug)]
struct State<T, R> {
    queue: Vec<Queued<T, R>>,
    /// Bytes of the items in it.
    bytes: u64,
    /// Somebody is at work.
    leading: bool,
    /// Threads blocked in [`Group::wait`], in order of arrival.
    waiting: VecDeque<Arc<Seat<R>>>,
    /// Threads in [`Group::serve`]: while there are any, nobody else leads.
    flushers: usize,
    /// How many of them have been told to stop.
    stopping: usize,
    /// A blocked thread has been woken to lead and is not up yet: one is enough.
    called: bool,
    /// Somebody asked for a flush while another was at work, who then does one more round.
    again: bool,
    /// Threads that wait for room.
    wanting: usize,
    /// Threads that wake others, and whom they have yet to wake.
    waking: Vec<(ThreadId, VecDeque<Waker>)>,
}

#[derive(Debug)]
struct Queued<T, R> {
    item: T,
    bytes: u64,
    seat: Arc<Seat<R>>,
}

impl<T, R> State<T, R> {
    /// An item that is larger than the limit is taken alone.
    fn has_room(&self, room: Room, bytes: u64) -> bool {
        self.queue.is_empty()
            || self.queue.len() < room.items && self.bytes.saturating_add(bytes) <= room.bytes
    }
}

/// Where a result is put. All of it is touched only under the group's lock; the mutex inside is
/// there because the compiler cannot know that.
#[derive(Debug)]
struct Seat<R> {
    place: std::sync::Mutex<Place<R>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Place<R> {
    /// `Some(None)`: the leader died over it.
    result: Option<Option<R>>,
    /// A thread is blocked: to wake nobody would cost a system call all the same.
    blocked: bool,
    then: Then<R>,
}

/// What to do, outside the lock, when the result is there.
enum Then<R> {
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

/// A place in the queue. The work is done whether or not anybody waits for it.
#[derive(Debug)]
pub(crate) struct Ticket<R>(Arc<Seat<R>>);

impl<R> Seat<R> {
    fn place(&self) -> std::sync::MutexGuard<'_, Place<R>> {
        self.place.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts the result; what is left to do must be done without the lock.
    fn put(self: &Arc<Self>, result: Option<R>) -> Later<R> {
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

/// What is left to do when a result is there.
enum Later<R> {
    Nothing,
    /// A thread is blocked. Woken under the lock, it would only run into it.
    Notify(Arc<Seat<R>>),
    Wake(Waker),
    Call(Box<dyn FnOnce(Option<R>) + Send>, Option<R>),
}

impl<R> Later<R> {
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Does our own part, and answers with the wakers.
    fn run(all: Vec<Self>) -> VecDeque<Waker> {
        let mut wakers = VecDeque::new();
        for later in all {
            match later {
                Self::Call(call, result) => call(result),
                // [mutant: ResultIsNotTold]
                Self::Notify(_) if mutated(Mutant::ResultIsNotTold) => {}
                Self::Notify(seat) => seat.changed.notify_one(),
                Self::Wake(waker) => wakers.push_back(waker),
                Self::Nothing => {}
            }
        }
        wakers
    }
}

/// What a waker panicked with.
type Panic = Box<dyn Any + Send>;

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

    /// Queues `item`, whether or not there is room: for one who waits for the result. It is worked on when
    /// somebody waits for this ticket or a later one, flushes, or serves.
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

    /// As [`Group::submit`], when there is room. Does everybody's work if nobody else is there to do it.
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

    /// Bytes of what is queued, with the places for the results.
    pub(crate) fn bytes(&self) -> usize {
        let state = lock(&self.state);
        let place = size_of::<Queued<T, R>>();
        state.queue.capacity() * place
            + state.queue.len() * size_of::<Seat<R>>()
            + state.bytes as usize
    }

    /// Takes the item out of the queue; `false` if somebody has taken it to work on it. Nobody may wait for
    /// its result then.
    pub(crate) fn withdraw(&self, ticket: &Ticket<R>) -> bool {
        let mut state = lock(&self.state);
        let is_it = |queued: &Queued<T, R>| Arc::ptr_eq(&queued.seat, &ticket.0);
        let Some(index) = state.queue.iter().position(is_it) else { return false };
        let Queued { item, bytes, .. } = state.queue.remove(index);
        state.bytes -= bytes;
        // A flusher has perhaps nothing else to take [mutant: WithdrawnIsNotTold].
        if !mutated(Mutant::WithdrawnIsNotTold) {
            self.tell_room(&state);
        }
        drop(state);
        drop(item);
        true
    }

    /// Waits for the result, doing everybody's work if nobody else is at it. `None` if the thread
    /// that did it panicked.
    pub(crate) fn wait(
        &self,
        ticket: &Ticket<R>,
        mut work: impl FnMut(Vec<T>) -> Vec<R>,
    ) -> Option<R> {
        let Ticket(seat) = ticket;
        let mut state = lock(&self.state);
        loop {
            if let Some(result) = seat.place().result.take() {
                // We may have been woken to lead, and the next in line sleeps [mutant: LeadIsKept].
                if !mutated(Mutant::LeadIsKept) {
                    self.pass_on(&mut state);
                }
                return result;
            }
            if state.leading || state.flushers > 0 {
                state.waiting.push_back(seat.clone());
                seat.place().blocked = true;
                state = wait(&seat.changed, state);
                seat.place().blocked = false;
                // Perhaps it was us. If not, calling another one costs a wake-up and nothing else
                // [mutant: CallIsKept].
                state.called &= mutated(Mutant::CallIsKept);
                state.waiting.retain(|other| !Arc::ptr_eq(other, seat));
            } else {
                state = self.lead(state, false, &mut work);
            }
        }
    }

    /// Takes the result if it is there; otherwise `context` is woken when it is.
    pub(crate) fn poll(&self, ticket: &Ticket<R>, context: &mut Context<'_>) -> Poll<Option<R>> {
        // Wakers are foreign code: they are cloned and dropped without a lock of ours, since they may
        // own another ticket.
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

    /// Calls `then` with the result when it is there, on the thread that has it.
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

    /// Does the work of everybody who is queued, or leaves it to whoever is at work now.
    pub(crate) fn flush(&self, mut work: impl FnMut(Vec<T>) -> Vec<R>) {
        let mut state = lock(&self.state);
        if state.queue.is_empty() {
            return;
        }
        if state.leading {
            // What he works on was taken from the queue before [mutant: FlushIsForgotten].
            state.again = !mutated(Mutant::FlushIsForgotten);
        } else {
            let mut state = self.lead(state, false, &mut work);
            self.pass_on(&mut state);
        }
    }

    /// Does everybody's work until it is told to stop and the queue is empty; calls `idle` whenever
    /// nothing has come for `patience`.
    pub(crate) fn serve(
        &self,
        stop: &AtomicBool,
        patience: std::time::Duration,
        mut work: impl FnMut(Vec<T>) -> Vec<R>,
        mut idle: impl FnMut(),
    ) {
        // Before the lock, so that it goes after it.
        let _leaves = Flusher(self);
        let mut state = lock(&self.state);
        state.flushers += 1;
        loop {
            if !state.leading && !state.queue.is_empty() {
                state = self.lead(state, true, &mut work);
                if state.stopping > 0 {
                    // Another may wait for the end of our work.
                    self.arrived.notify_all();
                }
            } else if stop.load(Ordering::Relaxed)
                && (state.queue.is_empty() || mutated(Mutant::FlusherLeavesWork))
            {
                state.stopping -= 1;
                break;
            } else {
                let (now, in_vain) = wait_for(&self.arrived, state, patience);
                state = now;
                if in_vain {
                    drop(state);
                    idle();
                    state = lock(&self.state);
                }
            }
        }
    }

    /// Tells the flusher that looks at `flag` to stop when the queue is empty.
    pub(crate) fn stop(&self, flag: &AtomicBool) {
        // Under the lock, so that it does not come between the look and the wait.
        let mut state = lock(&self.state);
        state.stopping += 1;
        flag.store(true, Ordering::Relaxed);
        self.arrived.notify_all();
    }

    /// Works with the lock released, one round or, if somebody asks for it meanwhile, more. Everybody
    /// who was queued has a result then.
    fn lead<'a>(
        &'a self,
        mut state: Guard<'a, State<T, R>>,
        flusher: bool,
        work: &mut impl FnMut(Vec<T>) -> Vec<R>,
    ) -> Guard<'a, State<T, R>> {
        loop {
            state.again = false;
            state = self.round(state, flusher, work);
            // While we told the results, somebody else may have begun to lead.
            if !state.again || state.leading || state.queue.is_empty() {
                return state;
            }
        }
    }

    fn round<'a>(
        &'a self,
        mut state: Guard<'a, State<T, R>>,
        flusher: bool,
        work: &mut impl FnMut(Vec<T>) -> Vec<R>,
    ) -> Guard<'a, State<T, R>> {
        if !mutated(Mutant::LeaderNotMarked) {
            state.leading = true;
        }
        let queue = std::mem::take(&mut state.queue);
        state.bytes = 0;
        // A flusher passes nothing on [mutant: RoomIsNotTold].
        if !mutated(Mutant::RoomIsNotTold) {
            self.tell_room(&state);
        }
        drop(state);
        let (items, seats) = queue.into_iter().map(|queued| (queued.item, queued.seat)).unzip();
        let mut round = Round { group: self, seats, flusher };
        let results = work(items);
        let mut state = lock(&self.state);
        state.leading = false;
        let seats = std::mem::take(&mut round.seats);
        let mut results = results.into_iter();
        let mut later: Vec<_> = seats.iter().map(|seat| seat.put(results.next())).collect();
        later.retain(|later| !later.is_nothing());
        if later.is_empty() {
            return state;
        }
        drop(state);
        let wakers = Later::run(later);
        let state = lock(&self.state);
        if wakers.is_empty() {
            return state;
        }
        let (state, panic) = self.wake(state, flusher, wakers);
        if let Some(panic) = panic {
            drop(state);
            resume_unwind(panic);
        }
        state
    }

    /// Wakes all, also if some panic: what the first panicked with.
    fn wake<'a>(
        &'a self,
        mut state: Guard<'a, State<T, R>>,
        flusher: bool,
        mut wakers: VecDeque<Waker>,
    ) -> (Guard<'a, State<T, R>>, Option<Panic>) {
        let me = this_thread();
        if let Some((_, later)) = state.waking.iter_mut().find(|(thread, _)| *thread == me) {
            // We are inside a waker. One who is woken and leads and wakes would never return.
            later.append(&mut wakers);
            return (state, None);
        }
        state.waking.push((me, wakers));
        if flusher {
            // One who is woken may wait for a commit, which nobody would do [mutant: WakesAsFlusher].
            state.flushers -= usize::from(!mutated(Mutant::WakesAsFlusher));
            self.pass_on(&mut state);
        }
        let mut panic = None;
        loop {
            let index = state.waking.iter().position(|(thread, _)| *thread == me);
            let next = index.and_then(|index| state.waking[index].1.pop_front());
            let Some(waker) = next else {
                index.map(|index| state.waking.swap_remove(index));
                state.flushers += usize::from(flusher && !mutated(Mutant::WakesAsFlusher));
                return (state, panic);
            };
            drop(state);
            panic = panic.or(catch_unwind(AssertUnwindSafe(|| waker.wake())).err());
            state = lock(&self.state);
        }
    }

    /// Those who wait for room look again.
    fn tell_room(&self, state: &State<T, R>) {
        if state.wanting > 0 {
            self.taken.notify_all();
        }
    }

    /// Wakes somebody to lead if there is work and nobody does.
    fn pass_on(&self, state: &mut State<T, R>) {
        if state.leading || mutated(Mutant::LeadIsDropped) {
            return;
        }
        // Nobody else may be there to take the queue [mutant: RoomIsNotPassedOn].
        if state.flushers == 0 && !mutated(Mutant::RoomIsNotPassedOn) {
            self.tell_room(state);
        }
        if state.flushers > 0 && state.stopping > 0 && !mutated(Mutant::StopIsKept) {
            // Without work as well: who has been stopped behind a leader waits for his end.
            self.arrived.notify_all();
        } else if state.queue.is_empty() {
            // Whoever comes next leads.
        } else if state.flushers > 0 {
            self.arrived.notify_one();
        } else if !state.called
            // Those who have a result leave, whatever they are woken for.
            && let Some(next) = state.waiting.iter().find(|seat| seat.place().result.is_none())
        {
            next.changed.notify_one();
            state.called = true;
        }
    }
}

/// A thread in [`Group::serve`]; one less when it ends, however it does.
struct Flusher<'a, T, R: 'static>(&'a Group<T, R>);

impl<T, R: 'static> Drop for Flusher<'_, T, R> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.flushers -= 1;
        self.0.pass_on(&mut state);
    }
}

/// Tells those who wait when the leader panics.
struct Round<'a, T, R: 'static> {
    group: &'a Group<T, R>,
    seats: Vec<Arc<Seat<R>>>,
    flusher: bool,
}

impl<T, R: 'static> Drop for Round<'_, T, R> {
    fn drop(&mut self) {
        if !self.seats.is_empty() {
            let mut state = lock(&self.group.state);
            state.leading = false;
            let later: Vec<_> = self.seats.iter().map(|seat| seat.put(None)).collect();
            self.group.pass_on(&mut state);
            drop(state);
            let wakers = Later::run(later);
            // We panic already.
            let (state, _) = self.group.wake(lock(&self.group.state), self.flusher, wakers);
            drop(state);
        }
    }
}

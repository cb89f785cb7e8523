//! Choosing the leader, and its work.

use crate::base::mutant::{fault, step};
use crate::base::sync::blocking::{Guard, lock, this_thread, wait_for};
use crate::stores::log::group::{Group, State};
use crate::stores::log::ticket::{Later, Seat};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

/// The payload of a waker's panic.
pub(super) type Panic = Box<dyn Any + Send>;

/// A thread in [`Group::serve`]; counted until it ends, also by a panic.
pub(super) struct Flusher<'a, T, R: 'static>(&'a Group<T, R>);

impl<T, R: 'static> Drop for Flusher<'_, T, R> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.flushers -= 1;
        self.0.pass_on(&mut state);
    }
}

/// Delivers the failure to waiting committers when the leader panics.
pub(super) struct Round<'a, T, R: 'static> {
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
            // This thread is panicking already: drop the waker's panic.
            let (state, _) = self.group.wake(lock(&self.group.state), self.flusher, wakers);
            drop(state);
        }
    }
}

impl<T, R: 'static> Group<T, R> {
    /// Works with the lock released: one round, or more if a flush was requested meanwhile. Every
    /// item that was queued has a result then.
    pub(super) fn lead<'a>(
        &'a self,
        mut state: Guard<'a, State<T, R>>,
        flusher: bool,
        work: &mut impl FnMut(Vec<T>) -> Vec<R>,
    ) -> Guard<'a, State<T, R>> {
        loop {
            state.again = false;
            state = self.round(state, flusher, work);
            // While the results were delivered, another thread may have begun to lead.
            if !state.again || state.leading || state.queue.is_empty() {
                return state;
            }
        }
    }

    pub(super) fn round<'a>(
        &'a self,
        mut state: Guard<'a, State<T, R>>,
        flusher: bool,
        work: &mut impl FnMut(Vec<T>) -> Vec<R>,
    ) -> Guard<'a, State<T, R>> {
        step!(LeaderNotMarked: state.leading = true);
        let queue = std::mem::take(&mut state.queue);
        state.bytes = 0;
        // A flusher passes nothing on [mutant: RoomIsNotTold].
        step!(RoomIsNotTold: self.tell_room(&state));
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

    /// Calls all wakers, even if some panic; returns the first panic.
    pub(super) fn wake<'a>(
        &'a self,
        mut state: Guard<'a, State<T, R>>,
        flusher: bool,
        mut wakers: VecDeque<Waker>,
    ) -> (Guard<'a, State<T, R>>, Option<Panic>) {
        let me = this_thread();
        if let Some((_, later)) = state.waking.iter_mut().find(|(thread, _)| *thread == me) {
            // This thread is inside a waker. A woken task that leads and calls wakers would never
            // return.
            later.append(&mut wakers);
            return (state, None);
        }
        state.waking.push((me, wakers));
        if flusher {
            // A woken task may wait for a commit, which no thread would do
            // [mutant: WakesAsFlusher].
            step!(WakesAsFlusher: state.flushers -= 1);
            self.pass_on(&mut state);
        }
        let mut panic = None;
        loop {
            let index = state.waking.iter().position(|(thread, _)| *thread == me);
            let next = index.and_then(|index| state.waking[index].1.pop_front());
            let Some(waker) = next else {
                index.map(|index| state.waking.swap_remove(index));
                if flusher {
                    step!(WakesAsFlusher: state.flushers += 1);
                }
                return (state, panic);
            };
            drop(state);
            panic = panic.or(catch_unwind(AssertUnwindSafe(|| waker.wake())).err());
            state = lock(&self.state);
        }
    }

    /// Wakes submitters that wait for room.
    pub(super) fn tell_room(&self, state: &State<T, R>) {
        if state.wanting > 0 {
            self.taken.notify_all();
        }
    }

    /// If there is work and no leader, wakes a thread to lead.
    pub(super) fn pass_on(&self, state: &mut State<T, R>) {
        fault!(LeadIsDropped: return);
        if state.leading {
            return;
        }
        // There may be no other thread to take the queue [mutant: RoomIsNotPassedOn].
        if state.flushers == 0 {
            step!(RoomIsNotPassedOn: self.tell_room(state));
        }
        let mut stopped = state.flushers > 0 && state.stopping > 0;
        fault!(StopIsKept: stopped = false);
        if stopped {
            // Without work as well: a flusher that was stopped while another led waits for this.
            self.arrived.notify_all();
        } else if state.queue.is_empty() {
            // The next committer leads.
        } else if state.flushers > 0 {
            self.arrived.notify_one();
        } else if !state.called
            // Threads that have a result leave, whatever they are woken for.
            && let Some(next) = state.waiting.iter().find(|seat| seat.place().result.is_none())
        {
            next.changed.notify_one();
            state.called = true;
        }
    }
}

impl<T, R: 'static> Group<T, R> {
    /// Does the work for everything queued, or leaves it to the current leader.
    pub(crate) fn flush(&self, mut work: impl FnMut(Vec<T>) -> Vec<R>) {
        let mut state = lock(&self.state);
        if state.queue.is_empty() {
            return;
        }
        if state.leading {
            // The leader's work was taken from the queue before this request
            // [mutant: FlushIsForgotten].
            state.again = true;
            fault!(FlushIsForgotten: state.again = false);
        } else {
            let mut state = self.lead(state, false, &mut work);
            self.pass_on(&mut state);
        }
    }

    /// Does all work until it is told to stop and the queue is empty. Calls `idle` whenever nothing
    /// has come for `patience`.
    pub(crate) fn serve(
        &self,
        stop: &AtomicBool,
        patience: std::time::Duration,
        mut work: impl FnMut(Vec<T>) -> Vec<R>,
        mut idle: impl FnMut(),
    ) {
        // Declared before the lock, so that it is dropped after it.
        let _leaves = Flusher(self);
        let mut state = lock(&self.state);
        state.flushers += 1;
        loop {
            let mut done = state.queue.is_empty();
            fault!(FlusherLeavesWork: done = true);
            if !state.leading && !state.queue.is_empty() {
                state = self.lead(state, true, &mut work);
                if state.stopping > 0 {
                    // Another flusher may wait for the end of this work.
                    self.arrived.notify_all();
                }
            } else if stop.load(Ordering::Relaxed) && done {
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
}

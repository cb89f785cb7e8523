//! Group commit (g): what happens between a commit and its result.

use std::sync::atomic::{AtomicBool, AtomicU8};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::stores::log::group::{Group, Room};
use crate::stores::log::ticket::Ticket;
use loom::cell::Cell;
use loom::sync::Arc;
use loom::sync::atomic::Ordering::Relaxed;

use super::{join, spawn};

/// Work for a group: counts how often each item was worked on. A cell, so that loom reports two who
/// work at the same time.
struct Shop {
    group: Group<usize, usize>,
    stop: AtomicBool,
    done: Cell<[u8; 3]>,
}

impl Shop {
    fn new() -> Arc<Self> {
        let (stop, done) = (AtomicBool::new(false), Cell::new([0; 3]));
        Arc::new(Self { group: Group::new(), stop, done })
    }

    /// Whose queue has room for one who does not wait.
    fn narrow() -> Arc<Self> {
        let (stop, done) = (AtomicBool::new(false), Cell::new([0; 3]));
        let group = Group::with_room(Room { items: 1, bytes: 1 });
        Arc::new(Self { group, stop, done })
    }

    fn submit_waiting(&self, item: usize) -> Ticket<usize> {
        self.group.submit_waiting(item, 1, |items| self.work(items))
    }

    fn work(&self, items: Vec<usize>) -> Vec<usize> {
        let mut done = self.done.get();
        items.iter().for_each(|&item| done[item] += 1);
        self.done.set(done);
        items.into_iter().map(result_of).collect()
    }

    fn wait(&self, item: usize, ticket: &Ticket<usize>) {
        let result = self.group.wait(ticket, |items| self.work(items));
        assert_eq!(result, Some(result_of(item)), "somebody else's result");
    }

    fn commit(&self, item: usize) {
        self.wait(item, &self.group.submit(item, 1));
    }

    fn flush(&self) {
        self.group.flush(|items| self.work(items));
    }

    fn serve(&self) {
        self.group.serve(&self.stop, Duration::MAX, |items| self.work(items), || ());
    }

    fn poll(&self, ticket: &Ticket<usize>, waker: &Waker) -> Poll<Option<usize>> {
        self.group.poll(ticket, &mut Context::from_waker(waker))
    }

    /// Asserts that `item` has been worked on, although nobody waits for it now.
    fn is_done(&self, item: usize, ticket: &Ticket<usize>) {
        let result = self.poll(ticket, Waker::noop());
        assert_eq!(result, Poll::Ready(Some(result_of(item))), "left in the queue");
    }

    /// Asserts that the first `items` have been worked on, each once.
    fn settle(&self, items: usize) {
        let each = std::array::from_fn(|item| u8::from(item < items));
        assert_eq!(self.done.get(), each, "an item was worked on twice or never");
    }
}

fn result_of(item: usize) -> usize {
    10 + item
}

pub fn g1() {
    let shop = Shop::new();
    let other = spawn(&shop, |shop| shop.commit(1));
    shop.commit(0);
    join(other);
    shop.settle(2);
}

pub fn g2() {
    let shop = Shop::new();
    let first = spawn(&shop, |shop| shop.commit(1));
    let second = spawn(&shop, |shop| shop.commit(2));
    shop.commit(0);
    join(first);
    join(second);
    shop.settle(3);
}

pub fn g3() {
    let shop = Shop::new();
    let before = shop.group.submit(0, 1);
    let other = spawn(&shop, |shop| shop.commit(1));
    let beside = shop.group.submit(2, 1);
    join(other);
    shop.is_done(0, &before);
    shop.wait(2, &beside);
    shop.settle(3);
}

pub fn g4() {
    let shop = Shop::new();
    let other = spawn(&shop, |shop| shop.commit(0));
    let ticket = shop.group.submit(1, 1);
    shop.flush();
    join(other);
    shop.is_done(1, &ticket);
    shop.settle(2);
}

/// How often something was called or woken.
#[derive(Default)]
struct Count(AtomicU8);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
    fn get(&self) -> u8 {
        self.0.load(Relaxed)
    }
}

impl Wake for Count {
    fn wake(self: std::sync::Arc<Self>) {
        self.add();
    }
}

pub fn g5() {
    let shop = Shop::new();
    let other = spawn(&shop, |shop| shop.commit(1));
    let calls = std::sync::Arc::new(Count::default());
    let called = calls.clone();
    let then = move |result| {
        assert_eq!(result, Some(result_of(0)), "somebody else's result");
        called.add();
    };
    shop.group.detach(&shop.group.submit(0, 1), Box::new(then));
    join(other);
    shop.flush();
    assert_eq!(calls.get(), 1, "called twice or never");
    shop.settle(2);
}

pub fn g5w() {
    let shop = Shop::new();
    let other = spawn(&shop, |shop| shop.commit(1));
    let wakes = std::sync::Arc::new(Count::default());
    let ticket = shop.group.submit(0, 1);
    let early = shop.poll(&ticket, &wakes.clone().into());
    join(other);
    shop.flush();
    if early.is_pending() {
        assert_eq!(wakes.get(), 1, "woken twice or never");
        shop.is_done(0, &ticket);
    }
    shop.settle(2);
}

pub fn g6() {
    let shop = Shop::new();
    let flusher = spawn(&shop, Shop::serve);
    let other = spawn(&shop, |shop| shop.commit(1));
    shop.commit(0);
    join(other);
    shop.group.stop(&shop.stop);
    join(flusher);
    shop.settle(2);
}

pub fn g7() {
    let shop = Shop::new();
    let flusher = spawn(&shop, Shop::serve);
    let other = spawn(&shop, |shop| shop.commit(0));
    let ticket = shop.group.submit(1, 1);
    shop.group.stop(&shop.stop);
    join(flusher);
    join(other);
    shop.is_done(1, &ticket);
    shop.settle(2);
}

/// The flusher waits for the end of a leader who leaves it nothing to do.
pub fn g8() {
    let shop = Shop::new();
    let flusher = spawn(&shop, Shop::serve);
    let other = spawn(&shop, |shop| shop.commit(0));
    let ticket = shop.group.submit(1, 1);
    shop.flush();
    shop.group.stop(&shop.stop);
    join(flusher);
    join(other);
    shop.is_done(1, &ticket);
    shop.settle(2);
}

pub fn g9() {
    let shop = Shop::narrow();
    let other = spawn(&shop, |shop| shop.commit(0));
    let beside = shop.group.submit(1, 1);
    let last = shop.submit_waiting(2);
    shop.flush();
    join(other);
    shop.is_done(1, &beside);
    shop.is_done(2, &last);
    shop.settle(3);
}

pub fn g10() {
    let shop = Shop::narrow();
    let flusher = spawn(&shop, Shop::serve);
    let first = shop.group.submit(0, 1);
    let last = shop.submit_waiting(1);
    shop.group.stop(&shop.stop);
    join(flusher);
    shop.is_done(0, &first);
    shop.flush();
    shop.is_done(1, &last);
    shop.settle(2);
}

pub fn g11() {
    let shop = Shop::narrow();
    let flusher = spawn(&shop, Shop::serve);
    let first = shop.group.submit(0, 1);
    let other = spawn(&shop, |shop| drop(shop.submit_waiting(2)));
    let withdrawn = shop.group.withdraw(&first);
    join(other);
    shop.group.stop(&shop.stop);
    join(flusher);
    shop.flush();
    let done = [u8::from(!withdrawn), 0, 1];
    assert_eq!(shop.done.get(), done, "withdrawn and done, or neither");
}

/// A group whose work is nothing.
struct Desk {
    group: Group<usize, usize>,
    stop: AtomicBool,
}

impl Desk {
    fn work(items: Vec<usize>) -> Vec<usize> {
        items.into_iter().map(result_of).collect()
    }

    fn commit(&self, item: usize) {
        let result = self.group.wait(&self.group.submit(item, 1), Self::work);
        assert_eq!(result, Some(result_of(item)), "somebody else's result");
    }

    fn serve(&self) {
        self.group.serve(&self.stop, Duration::MAX, Self::work, || ());
    }
}

/// Commits on the thread that wakes it.
struct Commits(Arc<Desk>);

impl Wake for Commits {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.commit(1);
    }
}

pub fn g12() {
    let desk = Arc::new(Desk { group: Group::new(), stop: AtomicBool::new(false) });
    let ticket = desk.group.submit(0, 1);
    let waker = Waker::from(std::sync::Arc::new(Commits(desk.clone())));
    assert!(desk.group.poll(&ticket, &mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    let flusher = spawn(&desk, Desk::serve);
    desk.commit(2);
    desk.group.stop(&desk.stop);
    join(flusher);
    let result = desk.group.poll(&ticket, &mut Context::from_waker(Waker::noop()));
    assert_eq!(result, Poll::Ready(Some(result_of(0))), "left in the queue");
}

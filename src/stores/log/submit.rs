//! Transactions that are queued now and waited for later.

use crate::stores::log::SpaceMapLog;
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::group::Full;
use crate::stores::log::inner::{Inner, Outcome, Queue};
use crate::transaction::{CommitFailed, Frozen, Transaction};
use crate::values::lsn::Lsn;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

/// A transaction on its way into the log. A thread may [`wait`](Pending::wait) for it, a task may
/// `await` it. Dropping it does not take the transaction back, if some thread flushes before the
/// log is dropped. An engine whose requests can be cancelled calls [`cancel`](Pending::cancel)
/// then, or keeps the extents elsewhere.
#[derive(Debug)]
#[must_use = "the outcome is known only when it is waited for"]
pub struct Pending {
    pub(super) inner: Arc<Inner>,
    pub(super) ticket: Outcome,
    pub(super) transaction: Option<Frozen>,
}

impl Pending {
    /// Takes the transaction back if no thread has begun to write it. O(transactions queued).
    ///
    /// # Errors
    /// The pending one: it is being written, or has been.
    pub fn cancel(mut self) -> Result<Transaction<'static>, Self> {
        match self.transaction.take() {
            Some(transaction) if self.inner.queue.withdraw(&self.ticket) => {
                Ok(transaction.reopen())
            }
            transaction => {
                self.transaction = transaction;
                Err(self)
            }
        }
    }

    /// Blocks until the transaction is durable or has failed; leads the flush if no other thread
    /// does.
    ///
    /// # Errors
    /// As [`Transaction::commit`](crate::Transaction::commit).
    pub fn wait(mut self) -> Result<Lsn, CommitFailed<'static, CommitError>> {
        let result = self.inner.wait(&self.ticket);
        self.finish(result)
    }

    fn finish(
        &mut self,
        result: Result<Lsn, CommitError>,
    ) -> Result<Lsn, CommitFailed<'static, CommitError>> {
        // Present until its one result arrives: neither `wait` nor a ready future comes here twice.
        let transaction = self.transaction.take();
        match (result, transaction) {
            (Err(error), Some(mut transaction)) => {
                if error.leaves_doubt() {
                    transaction.doubt();
                }
                Err(CommitFailed { transaction: transaction.reopen(), error })
            }
            (result, transaction) => {
                let lsn = result.unwrap_or(Lsn(self.inner.shared.seen().last));
                transaction.into_iter().for_each(|transaction| transaction.committed_as(lsn));
                Ok(lsn)
            }
        }
    }
}

impl IntoFuture for Pending {
    type Output = Result<Lsn, CommitFailed<'static, CommitError>>;
    type IntoFuture = Committing;

    fn into_future(self) -> Committing {
        Committing(self)
    }
}

/// The future of a [`Pending`] transaction. The leader wakes it; polling does no work.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Committing(pub(super) Pending);

impl Committing {
    /// See [`Pending::cancel`].
    ///
    /// # Errors
    /// As there.
    pub fn cancel(self) -> Result<Transaction<'static>, Self> {
        self.0.cancel().map_err(Self)
    }
}

impl Future for Committing {
    type Output = Result<Lsn, CommitFailed<'static, CommitError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let pending = &mut self.0;
        pending.inner.queue.poll(&pending.ticket, context).map(|result| {
            let result = pending.inner.outcome(result);
            pending.finish(result)
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // The thread that delivers the result releases the freed blocks, or gives back the
        // allocated ones.
        if let Some(mut transaction) = self.transaction.take() {
            let then = move |result: Option<Result<Lsn, CommitError>>| match result {
                Some(Ok(lsn)) => transaction.committed_as(lsn),
                Some(Err(error)) if !error.leaves_doubt() => {}
                Some(Err(_)) | None => transaction.doubt(),
            };
            self.inner.queue.detach(&self.ticket, Box::new(then));
        }
    }
}

/// The thread that [`SpaceMapLog::start_flusher`] started. Dropping it finishes what is queued and
/// ends the thread.
#[derive(Debug)]
#[must_use = "the thread ends when this is dropped: keep it as long as it is to flush"]
pub struct Flusher {
    pub(super) log: SpaceMapLog,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.log.inner.queue.stop(&self.stop);
        // A waker may drop the flusher on the flusher's own thread.
        let ours = |thread: &std::thread::JoinHandle<()>| {
            thread.thread().id() == std::thread::current().id()
        };
        if let Some(thread) = self.thread.take().filter(|thread| !ours(thread)) {
            drop(thread.join());
        }
    }
}

impl SpaceMapLog {
    /// Queues a transaction without waiting: for engines with more commits in flight than threads.
    ///
    /// The result is a future, and a thread can wait for it as well. Some thread must do the work:
    /// a [`Flusher`], a call of [`SpaceMapLog::flush`], or any thread that commits or waits.
    /// Polling does not.
    ///
    /// The queue has a limit ([`CreateOptions::max_queued`](crate::CreateOptions::max_queued),
    /// [`CreateOptions::max_queued_bytes`](crate::CreateOptions::max_queued_bytes)). What is being
    /// written does not count, nor does one transaction for each thread in
    /// [`Transaction::commit`](crate::Transaction::commit).
    ///
    /// # Errors
    /// [`CommitError::Foreign`], [`CommitError::TooLarge`], [`CommitError::Mode`],
    /// [`CommitError::Conflict`] for a [conflict](crate::Delta::conflict) that was known at the
    /// freeze, and [`CommitError::QueueFull`] at once; each with the transaction.
    pub fn submit(
        &self,
        transaction: Frozen,
    ) -> Result<Pending, CommitFailed<'static, CommitError>> {
        self.enqueue(transaction, |queue, records| {
            let bytes = records.len() as u64;
            queue.try_submit(records, bytes).map_err(|Full { items: transactions, bytes }| {
                CommitError::QueueFull { transactions, bytes }
            })
        })
    }

    /// As [`SpaceMapLog::submit`], but waits while the queue is full, until the leader has taken
    /// what is queued: at the latest after the flush under way. If there is no leader, the calling
    /// thread leads.
    ///
    /// # Errors
    /// As [`SpaceMapLog::submit`], but never [`CommitError::QueueFull`].
    pub fn submit_waiting(
        &self,
        transaction: Frozen,
    ) -> Result<Pending, CommitFailed<'static, CommitError>> {
        self.enqueue(transaction, |queue, records| {
            let bytes = records.len() as u64;
            Ok(queue.submit_waiting(records, bytes, |batch| self.inner.work(batch)))
        })
    }

    pub(super) fn enqueue(
        &self,
        transaction: Frozen,
        submit: impl FnOnce(&Queue, Vec<u8>) -> Result<Outcome, CommitError>,
    ) -> Result<Pending, CommitFailed<'static, CommitError>> {
        let records = self.inner.encode(transaction.delta());
        match records.and_then(|records| submit(&self.inner.queue, records)) {
            Ok(ticket) => {
                Ok(Pending { inner: self.inner.clone(), ticket, transaction: Some(transaction) })
            }
            Err(error) => Err(CommitFailed { transaction: transaction.reopen(), error }),
        }
    }

    /// Writes and flushes what is queued. If another thread leads, leaves it to that thread, which
    /// then goes on until nothing is queued.
    pub fn flush(&self) {
        self.inner.queue.flush(|batch| self.inner.work(batch));
    }

    /// Starts a thread that writes and flushes what is queued, for engines that
    /// [`submit`](SpaceMapLog::submit). It condenses when nothing has been queued for a second.
    /// While it runs, it does the work of all committers. Dropping the [`Flusher`] finishes the
    /// queue.
    ///
    /// # Errors
    /// The system's, if the thread cannot be started.
    pub fn start_flusher(&self) -> std::io::Result<Flusher> {
        let log = self.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread =
            std::thread::Builder::new().name("freemap-flusher".to_string()).spawn(move || {
                let inner = &log.inner;
                // An idle device ends with an empty log. An error shows at the next commit.
                let idle = || drop(inner.writer().idle());
                inner.queue.serve(
                    &stopped,
                    Duration::from_secs(1),
                    |batch| inner.work(batch),
                    idle,
                );
            })?;
        Ok(Flusher { log: self.clone(), stop, thread: Some(thread) })
    }
}

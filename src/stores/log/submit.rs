//! Transactions that are queued, and waited for later.

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
/// `await` it; dropping it does not take the transaction back, as long as somebody flushes before the
/// log is gone: an engine whose requests can be cancelled calls [`cancel`](Pending::cancel) then, or keeps
/// the extents elsewhere.
#[derive(Debug)]
#[must_use = "the outcome is known only when it is waited for"]
pub struct Pending {
    pub(super) inner: Arc<Inner>,
    pub(super) ticket: Outcome,
    pub(super) transaction: Option<Frozen>,
}

impl Pending {
    /// Takes the transaction back if nobody has begun to write it. O(transactions queued).
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

    /// Blocks until the transaction is durable or has failed, doing the work if nobody else does.
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
        // There until its one result is: neither `wait` nor a future that is ready comes here twice.
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

/// The future of a [`Pending`] transaction. Whoever does the work wakes it; polling does none.
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
        // Whoever has the result lets the freed blocks go, or gives back the allocated ones.
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
        // A waker may be the one that drops it, on the thread itself.
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
    /// What comes back is a future, and can be waited for by a thread as well. Somebody has to do
    /// the work: a [`Flusher`], a call of [`SpaceMapLog::flush`], or any thread that commits or
    /// waits. Polling does not.
    ///
    /// The queue has a limit ([`CreateOptions::max_queued`](crate::CreateOptions::max_queued), [`CreateOptions::max_queued_bytes`](crate::CreateOptions::max_queued_bytes)), beside which
    /// there is what is being written, and one transaction for each thread in
    /// [`Transaction::commit`](crate::Transaction::commit).
    ///
    /// # Errors
    /// [`CommitError::Foreign`], [`CommitError::TooLarge`], [`CommitError::Mode`], [`CommitError::Conflict`] for a
    /// [conflict](crate::Delta::conflict) that was known when it was frozen, and
    /// [`CommitError::QueueFull`](crate::Delta::conflict) at once, with the transaction.
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

    /// As [`SpaceMapLog::submit`], but waits while the queue is full: until those who do the work have taken
    /// what is queued, which they do at the latest after the flush that is under way. If there is nobody,
    /// the calling thread does it.
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

    /// Writes and flushes whatever is queued, or leaves that to the thread that is at it now, which
    /// then goes on until nothing is queued.
    pub fn flush(&self) {
        self.inner.queue.flush(|batch| self.inner.work(batch));
    }

    /// Starts a thread that writes and flushes whatever is queued, for engines that
    /// [`submit`](SpaceMapLog::submit), and condenses when nothing has been queued for a second. As
    /// long as it lives, it does the work of all committers. Dropping it finishes the queue.
    ///
    /// # Errors
    /// The system's, if there can be no thread.
    pub fn start_flusher(&self) -> std::io::Result<Flusher> {
        let log = self.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread =
            std::thread::Builder::new().name("freemap-flusher".to_string()).spawn(move || {
                let inner = &log.inner;
                // An idle device ends with an empty log; an error shows at the next commit.
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

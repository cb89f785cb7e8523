//! Races that a unit test has the same way each time: what another thread does runs on this one,
//! between two of its accesses to atomic words.

use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    static PLANNED: RefCell<Option<Planned>> = const { RefCell::new(None) };
}

struct Planned {
    /// Accesses of this thread before it.
    accesses: u32,
    work: Box<dyn FnOnce()>,
}

/// The work of another thread.
#[must_use = "it runs while this is not dropped"]
pub(crate) struct Meanwhile<T>(Rc<RefCell<Option<T>>>);

/// Has `work` run once, all at once, before the access of this thread that follows the next
/// `accesses` ones. A test goes through all moments: with 0, 1, and so on, until `work` does not
/// run any more.
pub(crate) fn after<T: 'static>(accesses: u32, work: impl FnOnce() -> T + 'static) -> Meanwhile<T> {
    let result = Rc::new(RefCell::new(None));
    let place = result.clone();
    let work = Box::new(move || *place.borrow_mut() = Some(work()));
    PLANNED.set(Some(Planned { accesses, work }));
    Meanwhile(result)
}

impl<T> Meanwhile<T> {
    /// What the work returned; `None` if it has not run, and then it never will.
    pub(crate) fn result(self) -> Option<T> {
        self.0.take()
    }
}

impl<T> Drop for Meanwhile<T> {
    fn drop(&mut self) {
        PLANNED.set(None);
    }
}

/// This thread is about to access a word.
pub(super) fn arrive() {
    let due = PLANNED.with_borrow_mut(|planned| {
        let due = planned.take_if(|planned| planned.accesses == 0);
        planned.iter_mut().for_each(|planned| planned.accesses -= 1);
        due
    });
    if let Some(planned) = due {
        (planned.work)();
    }
}

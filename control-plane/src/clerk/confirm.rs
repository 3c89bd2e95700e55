//! Questions to a store that others write to: how far it is, asked once for all who wait meanwhile.
//!
//! ```text
//!  push ─▶ waiting ──ask──▶ asked ──the store has said──▶ answered
//!              └ those that come meanwhile wait for the next question
//! ```

use futures_util::future::BoxFuture;

use crate::store::{Cause, Revision};

type Newest = Result<Revision, Cause>;

/// Those who wait for an answer that is younger than they are.
pub(super) struct Confirm<T> {
    waiting: Vec<T>,
    asked: Vec<T>,
    answer: Option<BoxFuture<'static, Newest>>,
}

impl<T> Default for Confirm<T> {
    fn default() -> Self {
        Self { waiting: Vec::new(), asked: Vec::new(), answer: None }
    }
}

impl<T> Confirm<T> {
    /// Whether nobody waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty()
    }

    /// Waits with the others.
    pub(super) fn push(&mut self, one: T) {
        self.waiting.push(one);
    }

    /// Asks for those who wait, unless an answer is awaited already.
    pub(super) fn ask(&mut self, question: impl FnOnce() -> BoxFuture<'static, Newest>) {
        if self.answer.is_none() && !self.waiting.is_empty() {
            self.asked = std::mem::take(&mut self.waiting);
            self.answer = Some(question());
        }
    }

    /// The answer, and who has waited for it; never, as long as nothing is asked. Nothing is lost if it is dropped.
    pub(super) async fn answered(&mut self) -> (Vec<T>, Newest) {
        let newest = match &mut self.answer {
            Some(answer) => answer.await,
            None => std::future::pending().await,
        };
        self.answer = None;
        (std::mem::take(&mut self.asked), newest)
    }

    /// All who wait: for them something else has been found out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.asked.drain(..).chain(self.waiting.drain(..))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_for_those_who_waited_when_it_was_asked_for() {
        let mut confirm = Confirm::default();
        confirm.ask(|| unreachable!("nobody waits"));
        assert!(confirm.answered().now_or_never().is_none());
        let (tell, told) = oneshot::channel();
        confirm.push(1);
        confirm.push(2);
        confirm.ask(|| async { Ok(told.await.unwrap()) }.boxed());
        confirm.push(3);
        confirm.ask(|| unreachable!("it is asked already"));
        assert!(confirm.answered().now_or_never().is_none());
        tell.send(Revision(7)).unwrap();
        assert_eq!(confirm.answered().await, (vec![1, 2], Ok(Revision(7))));
        assert!(!confirm.is_empty());
        confirm.ask(|| async { Err("away".into()) }.boxed());
        assert_eq!(confirm.drain().collect::<Vec<_>>(), [3]);
        assert_eq!(confirm.answered().await, (vec![], Err("away".into())));
        assert!(confirm.is_empty());
    }
}

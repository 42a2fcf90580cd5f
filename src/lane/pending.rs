//! A request that waits for its answer.

use crate::model::{Attributes, RequestStatus};

use super::event::LaneEvent;
use super::extractor::Extractor;
use super::outgoing::Outgoing;
use super::segment::Moment;

/// A request that was told and has not ended.
#[derive(Debug)]
pub(super) struct Pending {
    /// Under which number it was told.
    pub(super) number: u64,
    /// `None` if only its answer is seen.
    pub(super) method: Option<&'static str>,
    /// The protocols that have a say in how its answer is read.
    pub(super) spoken: Vec<&'static dyn Extractor>,
    /// Bytes of its body, if all were seen.
    pub(super) size: Option<u64>,
}

impl Pending {
    /// The end of a request whose answer was sent.
    pub(super) fn answered(self, answer: &Outgoing, moment: Moment) -> LaneEvent {
        let mut attributes = self.known(answer);
        let mut status = RequestStatus::Ok;
        if answer.told().is_some_and(|told| told.status >= 500) {
            status = RequestStatus::Error;
        }
        if let (Some(told), Some(body)) = (answer.told(), answer.body())
            && !self.spoken.is_empty()
        {
            let text = told.encoding.decode(body.beginning().bytes());
            for protocol in &self.spoken {
                if protocol.answer(&text, &mut attributes) == RequestStatus::Error {
                    status = RequestStatus::Error;
                }
            }
        }
        self.ended(moment, status, attributes)
    }

    /// The end of a request whose answer, of which there is maybe some, will not become whole.
    pub(super) fn broken(self, answer: &Outgoing, moment: Moment, reason: &str) -> LaneEvent {
        let mut attributes = self.known(answer);
        attributes.insert("error.type".into(), reason.to_owned().into());
        self.ended(moment, RequestStatus::Error, attributes)
    }

    /// The end of a request that was lost sight of.
    pub(super) fn lost(self, moment: Moment) -> LaneEvent {
        self.ended(moment, RequestStatus::Unset, Attributes::new())
    }

    /// What is known of its end.
    fn known(&self, answer: &Outgoing) -> Attributes {
        let mut attributes = Attributes::new();
        let mut add = |name: &'static str, value: Option<String>| {
            attributes.extend(value.map(|value| (name.into(), value.into())));
        };
        add("http.response.status_code", answer.told().map(|told| told.status.to_string()));
        add(
            "http.response.body.size",
            answer.body().and_then(|body| body.size()).map(|size| size.to_string()),
        );
        add("http.request.body.size", self.size.filter(|size| *size > 0).map(|size| size.to_string()));
        attributes
    }

    fn ended(&self, moment: Moment, status: RequestStatus, attributes: Attributes) -> LaneEvent {
        LaneEvent::Ended { number: self.number, time_ns: moment.time_ns, tid: moment.tid, status, attributes }
    }
}

//! What is recorded of every request. The handles are looked up once for each thread, never for a request.

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::Method;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

/// The methods that are told apart; others, which anybody may make up, count together as the last.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "PUT", "POST", "DELETE", "UNLINK", "RELINK", "REPLACE", "REBALANCE", "other"];

/// The handles of one thread.
pub(super) struct Measure {
    in_flight: Gauge,
    received: Counter,
    sent: Counter,
    methods: [OfMethod; METHODS.len()],
}

struct OfMethod {
    name: &'static str,
    seconds: Histogram,
    /// By status, as they come up: there are some twenty.
    answers: RefCell<Vec<(u16, Counter)>>,
}

/// A request that is being answered; it ends with this value, also when the client goes away.
pub(super) struct InFlight<'a> {
    measure: &'a Measure,
    received: Rc<Cell<u64>>,
    begun: Instant,
}

impl Measure {
    pub(super) fn new() -> Measure {
        Measure {
            in_flight: gauge!("mkv_requests_in_flight"),
            received: counter!("mkv_received_bytes_total"),
            sent: counter!("mkv_sent_bytes_total"),
            methods: METHODS.map(|name| OfMethod {
                name,
                seconds: histogram!("mkv_request_duration_seconds", "method" => name),
                answers: RefCell::default(),
            }),
        }
    }

    /// A request whose body is counted in `received`.
    pub(super) fn begin(&self, received: Rc<Cell<u64>>) -> InFlight<'_> {
        self.in_flight.increment(1);
        InFlight { measure: self, received, begun: Instant::now() }
    }
}

impl InFlight<'_> {
    /// The request has this answer. What is streamed is counted where it is made.
    pub(super) fn answered(self, method: &Method, response: &HttpResponse) {
        let of_method = self.measure.of(method);
        of_method.seconds.record(self.begun.elapsed());
        of_method.count(response.status().as_u16());
        if let BodySize::Sized(bytes) = response.body().size()
            && method != Method::HEAD
        {
            self.measure.sent.increment(bytes);
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.measure.in_flight.decrement(1);
        self.measure.received.increment(self.received.get());
    }
}

impl Measure {
    fn of(&self, method: &Method) -> &OfMethod {
        let known = self.methods.iter().find(|known| known.name == method.as_str());
        known.unwrap_or(&self.methods[METHODS.len() - 1])
    }
}

impl OfMethod {
    fn count(&self, status: u16) {
        let mut answers = self.answers.borrow_mut();
        if let Some((_, counter)) = answers.iter().find(|(known, _)| *known == status) {
            return counter.increment(1);
        }
        let counter = counter!("mkv_requests_total", "method" => self.name, "status" => status.to_string());
        counter.increment(1);
        answers.push((status, counter));
    }
}

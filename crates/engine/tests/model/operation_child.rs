//! How operations bring it about that something is handed on.

use super::{Model, action, pick, promising};
use crate::request::{Acting, Caller, Request};
use crate::world::Party;

/// A capability that is handed on, or what that takes: one in a session with another in it, and before that the session.
pub(super) fn handing_on(model: &Model, number: u8, by: u8, approval: Option<u8>) -> Option<(Caller, Request)> {
    let open = |number: usize| model.sessions[number].principal == Party::Bot && model.session_open(number);
    let own = |number: usize| {
        let found = &model.sessions[number];
        found.operator.map_or(Caller::Is(found.principal), |operator| Caller::For(found.principal, operator))
    };
    let good = |number: usize| {
        let found = &model.capabilities[number];
        found.state(model.now) == "minted" && model.child_of(found.action.session).is_some()
    };
    if !(0..model.capabilities.len()).any(good) && by % 8 != 7 {
        let from = (0..model.sessions.len()).rev().find(|number| open(*number))?;
        let request = match model.child_of(from) {
            Some(_) => Request::Decide {
                action: action(from, number & 0xf0 | 6),
                acting: Acting::Caller,
                approval: None,
                mint: true,
            },
            None => Request::OpenIn { parent: from, acting: Acting::Named(Party::Bug), seconds: 3_600 },
        };
        return Some((own(from), request));
    }
    let capability = promising(number, model.capabilities.len(), good)?;
    let from = model.capabilities[capability].action.session;
    let to = model.child_of(from).filter(|_| by % 16 != 6).unwrap_or(from);
    let caller = if by % 8 == 7 { pick(by / 8, &[Caller::Is(Party::Bug), Caller::Is(Party::Sam)]) } else { own(from) };
    let of_child = |question: usize| {
        let asked = &model.questions[question];
        asked.action.session == to && asked.state(model.now) == "approved"
    };
    let approval = approval.and_then(|pick| promising(pick, model.questions.len(), of_child));
    Some((caller, Request::Delegate { capability, session: to, approval }))
}

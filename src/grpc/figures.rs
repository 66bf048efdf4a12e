//! How asking goes, for the wire.

use countersign_core::EntityRef;
use countersign_core::figures::{Figures, Subject};

use super::call::Verified;
use super::convert::{entity_to_wire, page_size};
use super::errors::Failure;
use crate::proto::approval_figures::Subject as About;
use crate::proto::{ApprovalFigures, GetApprovalFiguresRequest, GetApprovalFiguresResponse};

/// A page of figures.
pub async fn get(
    verified: &Verified,
    message: GetApprovalFiguresRequest,
) -> Result<GetApprovalFiguresResponse, Failure> {
    let GetApprovalFiguresRequest { page_size: size, page_token } = message;
    let after = match page_token.as_str() {
        "" => None,
        token => Some(read_token(token).ok_or_else(|| {
            Failure::field("page_token", "not one of this service's; leave it out for the first page")
        })?),
    };
    let limit = page_size(size, 100, 1_000)?;
    let page = verified.engine.figures(&verified.call, after.as_ref(), limit).await?;
    Ok(GetApprovalFiguresResponse {
        figures: page.items.into_iter().map(figures).collect(),
        next_page_token: page.next.as_ref().map(token).unwrap_or_default(),
    })
}

fn token(subject: &Subject) -> String {
    match subject {
        Subject::Rule(rule) => format!("rule|{rule}"),
        Subject::Person(person) => format!("person|{}|{}", person.kind(), person.id()),
    }
}

fn read_token(token: &str) -> Option<Subject> {
    match token.split_once('|')? {
        ("rule", rule) if rule.len() <= 64 => Some(Subject::Rule(rule.to_owned())),
        ("person", person) => {
            // No type has a bar in it.
            let (kind, id) = person.split_once('|')?;
            EntityRef::new(kind, id).ok().map(Subject::Person)
        }
        _another => None,
    }
}

fn figures(figures: Figures) -> ApprovalFigures {
    let Figures { subject, asked, approved, denied, approvals, sighted, quick, waits } = figures;
    let subject = match subject {
        Subject::Rule(rule) => About::RuleId(rule),
        Subject::Person(person) => About::Person(entity_to_wire(&person)),
    };
    ApprovalFigures {
        subject: Some(subject),
        asked,
        approved,
        denied,
        approving_votes: approvals,
        sighted_approvals: sighted,
        quick_approvals: quick,
        median_wait: waits.median().and_then(|median| prost_types::Duration::try_from(median).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_its_token_says() {
        let person = EntityRef::new("Person", "d\"a|na").unwrap();
        for subject in [Subject::Rule("export-needs-two".into()), Subject::Person(person)] {
            assert_eq!(read_token(&token(&subject)), Some(subject));
        }
        for wrong in ["", "rule", "person|", "person|Person|", "other|x", &format!("rule|{}", "r".repeat(65))] {
            assert_eq!(read_token(wrong), None, "{wrong}");
        }
    }
}

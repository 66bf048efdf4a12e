//! Searches of the log, for the wire.

use countersign_core::{ApprovalId, Digest, ReviewId, SessionId, Timestamp, TokenId};
use countersign_engine::{Answers, Field, Question, entity_value, is_mark};

use super::audit::record;
use super::call::Verified;
use super::convert::{digest, entity, optional_id, page_size};
use super::errors::Failure;
use crate::proto;
use crate::proto::{SearchRecordsRequest, SearchRecordsResponse};

/// The longest text that is searched for: no record has a longer one in a field.
const LONGEST: usize = 512;

/// A page of the records that are asked for.
pub async fn search(verified: &Verified, mut message: SearchRecordsRequest) -> Result<SearchRecordsResponse, Failure> {
    let limit = page_size(std::mem::take(&mut message.page_size), 100, 1_000)?;
    let token = std::mem::take(&mut message.page_token);
    let asked = fingerprint(&message);
    let place = place(&token, &asked)?;
    let question = question(message)?;
    let Answers { records, next, log_size, minimum_index } =
        verified.engine.search(&verified.call, &question, place, limit).await?;
    Ok(SearchRecordsResponse {
        records: records.into_iter().map(|(index, content)| record(index, &content)).collect(),
        next_page_token: next.map(|next| format!("{next}.{asked}")).unwrap_or_default(),
        log_size,
        minimum_index,
    })
}

/// What a page token is bound to: everything that is asked for.
fn fingerprint(message: &SearchRecordsRequest) -> String {
    let digest = Digest::of(&prost::Message::encode_to_vec(message)).to_string();
    digest.chars().take(16).collect()
}

fn place(token: &str, asked: &str) -> Result<Option<u64>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = || Failure::field("page_token", "not one of this search's; leave it out to begin anew");
    let (place, of) = token.split_once('.').ok_or_else(bad)?;
    if of != asked {
        return Err(bad());
    }
    place.parse().map(Some).map_err(|_| bad())
}

fn question(message: SearchRecordsRequest) -> Result<Question, Failure> {
    let SearchRecordsRequest {
        kind,
        principal,
        operator,
        caller,
        approver,
        resource,
        operation,
        rule_id,
        verdict,
        session_id,
        capability_id,
        approval_id,
        review_id,
        bundle_digest,
        mark,
        from,
        until,
        oldest_first,
        page_size: _,
        page_token: _,
        channel,
    } = message;
    let mut values = Vec::new();
    for (name, field, text) in [
        // The fewest records first: they say soonest where nothing is.
        ("capability_id", Field::Capability, optional_id::<TokenId>("capability_id", &capability_id)?.map(text)),
        ("approval_id", Field::Approval, optional_id::<ApprovalId>("approval_id", &approval_id)?.map(text)),
        ("review_id", Field::Review, optional_id::<ReviewId>("review_id", &review_id)?.map(text)),
        ("session_id", Field::Session, optional_id::<SessionId>("session_id", &session_id)?.map(text)),
        ("approver", Field::Approver, person("approver", approver)?),
        ("principal", Field::Principal, person("principal", principal)?),
        ("operator", Field::Operator, person("operator", operator)?),
        ("caller", Field::Caller, person("caller", caller)?),
        ("resource", Field::Resource, person("resource", resource)?),
        ("mark", Field::Mark, given(mark)),
        ("channel", Field::Channel, given(channel)),
        ("rule_id", Field::Rule, given(rule_id)),
        ("operation", Field::Operation, given(operation)),
        ("verdict", Field::Verdict, given(verdict)),
        ("kind", Field::Kind, given(kind)),
        ("bundle_digest", Field::Bundle, given(bundle_digest)),
    ] {
        let Some(value) = text else { continue };
        if value.len() > LONGEST {
            return Err(Failure::field(name, format!("longer than the {LONGEST} bytes that a record can have there")));
        }
        if field == Field::Mark && !is_mark(&value) {
            return Err(Failure::field(name, "no mark that records have; the documentation of the field lists them"));
        }
        if field == Field::Bundle {
            digest(name, &value)?;
        }
        values.push((field, value));
    }
    let (from, until) = (from.map(|at| time("from", at)).transpose()?, until.map(|at| time("until", at)).transpose()?);
    if from.zip(until).is_some_and(|(from, until)| from >= until) {
        return Err(Failure::field("until", "not after `from`"));
    }
    Ok(Question { values, from, until, oldest_first })
}

fn text(id: impl ToString) -> String {
    id.to_string()
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn person(field: &str, named: Option<proto::Entity>) -> Result<Option<String>, Failure> {
    named.map(|named| entity(field, named).map(|entity| entity_value(&entity))).transpose()
}

/// A time, to the millisecond that records have: the first one that is not before it.
fn time(field: &str, at: prost_types::Timestamp) -> Result<Timestamp, Failure> {
    let prost_types::Timestamp { seconds, nanos } = at;
    let millis = seconds.checked_mul(1_000).zip(u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000));
    let millis = millis.and_then(|(millis, nanos)| millis.checked_add(i64::from(nanos.div_ceil(1_000_000))));
    millis.map(Timestamp::from_millis).ok_or_else(|| Failure::field(field, "not a time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_is_good_for_its_search_only() {
        let one = SearchRecordsRequest { kind: "vote".into(), ..SearchRecordsRequest::default() };
        let other = SearchRecordsRequest { oldest_first: true, ..one.clone() };
        let asked = fingerprint(&one);
        assert_eq!(place(&format!("7.{asked}"), &asked).unwrap(), Some(7));
        assert_eq!(place("", &asked).unwrap(), None);
        for bad in ["7", &format!("x.{asked}"), &format!("7.{}", fingerprint(&other)), &format!("-1.{asked}"), "."] {
            assert!(place(bad, &asked).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_no_record_can_have_is_refused() {
        let entity = |kind: &str, id: &str| Some(proto::Entity { r#type: kind.into(), id: id.into() });
        let none = SearchRecordsRequest::default;
        let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        assert!(question(none()).unwrap().values.is_empty());
        for bad in [
            SearchRecordsRequest { session_id: "ses_1".into(), ..none() },
            SearchRecordsRequest { principal: entity("A b", "x"), ..none() },
            SearchRecordsRequest { mark: "odd".into(), ..none() },
            SearchRecordsRequest { bundle_digest: "00".into(), ..none() },
            SearchRecordsRequest { rule_id: "r".repeat(513), ..none() },
            SearchRecordsRequest { from: at(2, 0), until: at(2, 0), ..none() },
            SearchRecordsRequest { from: at(i64::MAX, 0), ..none() },
            SearchRecordsRequest { from: at(0, -1), ..none() },
        ] {
            assert!(question(bad.clone()).is_err(), "{bad:?}");
        }
        let question = question(SearchRecordsRequest { from: at(1, 1), ..none() }).unwrap();
        assert_eq!(question.from, Some(Timestamp::from_millis(1_001)));
    }
}

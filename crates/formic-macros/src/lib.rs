//! The attributes `#[formic::main]` and `#[formic::test]`: an `async fn` on a runtime.
//!
//! They walk the tokens themselves, without `syn`, which every service would otherwise compile: all
//! they need is to find `async`, the name, the return type and the body. What runs the body is
//! `formic::__rt_main` and `formic::__rt_test`; here is only the wrapping.

use proc_macro::{Delimiter, Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};

/// Starts a service's `async fn main` on the multi-threaded runtime.
///
/// ```ignore
/// #[formic::main]
/// async fn main() -> formic::Result {
///     formic::Service::new("greeter").serve(Hello).run().await
/// }
/// ```
///
/// An error that it returns is printed, and the process exits with a status that is not zero.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    expand(options, item, &MAIN).unwrap_or_else(Fault::into_tokens)
}

/// Runs an `async fn` as a test, on a runtime of one thread whose clock is paused: a sleep takes no
/// time, and a timeout never fires while there is work to do.
///
/// ```ignore
/// #[formic::test]
/// async fn says_hello() {
///     assert_eq!(hello("Ada").await, "hello, Ada");
/// }
/// ```
#[proc_macro_attribute]
pub fn test(options: TokenStream, item: TokenStream) -> TokenStream {
    expand(options, item, &TEST).unwrap_or_else(Fault::into_tokens)
}

/// What sets the attributes apart.
struct Kind {
    attribute: &'static str,
    runner: &'static str,
    is_test: bool,
}

const MAIN: Kind = Kind { attribute: "#[formic::main]", runner: "__rt_main", is_test: false };
const TEST: Kind = Kind { attribute: "#[formic::test]", runner: "__rt_test", is_test: true };

/// What the author did wrong, at the token where it shows.
struct Fault {
    span: Span,
    message: String,
}

impl Fault {
    fn new(span: Span, message: String) -> Self {
        Self { span, message }
    }

    /// `::core::compile_error!("…");` at the place.
    fn into_tokens(self) -> TokenStream {
        let mut literal = proc_macro::Literal::string(&self.message);
        literal.set_span(self.span);
        let mut argument = Group::new(Delimiter::Parenthesis, TokenTree::from(literal).into());
        // Every token must have the span, or rustc shows the attribute instead.
        argument.set_span(self.span);
        let bang = punct('!', Spacing::Alone, self.span);
        let end = punct(';', Spacing::Alone, self.span);
        path(&["core", "compile_error"], self.span)
            .into_iter()
            .chain([bang, TokenTree::Group(argument), end])
            .collect()
    }
}

/// Puts the `async fn` as it is into one that is not and that runs it:
/// `fn name() -> R { async fn name() -> R { body } ::formic::runner(name()) }`.
///
/// An async block in its place would lose the return type, by which `?` and `Ok(())` are inferred.
fn expand(options: TokenStream, item: TokenStream, kind: &Kind) -> Result<TokenStream, Fault> {
    let attribute = kind.attribute;
    if let Some(option) = options.into_iter().next() {
        return Err(Fault::new(option.span(), format!("{attribute} takes no options")));
    }
    let function = Function::parse(item, attribute)?;
    let name = TokenTree::Ident(function.name.clone());
    let span = function.name.span();
    let unit = || TokenTree::Group(Group::new(Delimiter::Parenthesis, TokenStream::new()));

    let mut inner = vec![word("async", span), word("fn", span), name.clone(), unit()];
    inner.extend(function.output.iter().cloned());
    inner.push(TokenTree::Group(function.body.clone()));
    inner.extend(path(&["formic", kind.runner], span));
    let call = [name.clone(), unit()].into_iter().collect();
    inner.push(TokenTree::Group(Group::new(Delimiter::Parenthesis, call)));
    let mut body = Group::new(Delimiter::Brace, inner.into_iter().collect());
    body.set_span(function.body.span());

    let mut out = TokenStream::new();
    if kind.is_test {
        let test = path(&["core", "prelude", "v1", "test"], Span::call_site());
        out.extend([
            punct('#', Spacing::Alone, Span::call_site()),
            TokenTree::Group(Group::new(Delimiter::Bracket, test.into_iter().collect())),
        ]);
    }
    out.extend(function.before);
    out.extend([word("fn", span), name, unit()]);
    if kind.is_test {
        out.extend(function.output);
    } else {
        out.extend([punct('-', Spacing::Joint, span), punct('>', Spacing::Alone, span)]);
        out.extend(path(&["std", "process", "ExitCode"], span));
    }
    out.extend([TokenTree::Group(body)]);
    Ok(out)
}

/// The parts of an `async fn` without arguments.
struct Function {
    /// Attributes and visibility.
    before: Vec<TokenTree>,
    name: Ident,
    /// `-> R`, or nothing.
    output: Vec<TokenTree>,
    body: Group,
}

impl Function {
    fn parse(item: TokenStream, attribute: &str) -> Result<Self, Fault> {
        let mut before: Vec<TokenTree> = item.into_iter().collect();
        let is = |token: &TokenTree, word: &str| matches!(token, TokenTree::Ident(ident) if ident.to_string() == word);
        let Some(at) = before.iter().position(|token| is(token, "fn")) else {
            let span = before.first().map_or_else(Span::call_site, TokenTree::span);
            return Err(Fault::new(span, format!("{attribute} goes above an `async fn`")));
        };
        let mut rest = before.split_off(at).into_iter();
        let keyword = rest.next().map_or_else(Span::call_site, |token| token.span());
        let Some(asynchronous) = before.iter().position(|token| is(token, "async")) else {
            let message = format!("{attribute} needs an `async fn`: write `async` before `fn`");
            return Err(Fault::new(keyword, message));
        };
        before.remove(asynchronous);
        let Some(TokenTree::Ident(name)) = rest.next() else {
            return Err(Fault::new(keyword, format!("a function under {attribute} needs a name")));
        };
        match rest.next() {
            Some(TokenTree::Group(arguments)) if arguments.delimiter() == Delimiter::Parenthesis => {
                if let Some(argument) = arguments.stream().into_iter().next() {
                    let message = format!("a function under {attribute} takes no arguments");
                    return Err(Fault::new(argument.span(), message));
                }
            }
            _ => {
                return Err(Fault::new(
                    name.span(),
                    format!("a function under {attribute} cannot be generic"),
                ));
            }
        }
        let mut output: Vec<TokenTree> = rest.collect();
        match output.pop() {
            Some(TokenTree::Group(body)) if body.delimiter() == Delimiter::Brace => {
                Ok(Self { before, name, output, body })
            }
            _ => Err(Fault::new(name.span(), format!("a function under {attribute} needs a body"))),
        }
    }
}

fn word(word: &str, span: Span) -> TokenTree {
    TokenTree::Ident(Ident::new(word, span))
}

/// `::a::b`.
fn path(segments: &[&str], span: Span) -> Vec<TokenTree> {
    let segment = |name: &&str| {
        let colons = [punct(':', Spacing::Joint, span), punct(':', Spacing::Alone, span)];
        colons.into_iter().chain([TokenTree::Ident(Ident::new(name, span))])
    };
    segments.iter().flat_map(segment).collect()
}

fn punct(character: char, spacing: Spacing, span: Span) -> TokenTree {
    let mut punct = Punct::new(character, spacing);
    punct.set_span(span);
    TokenTree::Punct(punct)
}

/// What is refused.
///
/// ```compile_fail
/// #[formic_macros::main]
/// fn main() {}
/// ```
/// ```compile_fail
/// #[formic_macros::test]
/// fn not_async() {}
/// ```
/// ```compile_fail
/// #[formic_macros::test]
/// async fn with_arguments(_: u8) {}
/// ```
/// ```compile_fail
/// #[formic_macros::test(flavor = "multi_thread")]
/// async fn with_options() {}
/// ```
/// ```compile_fail
/// #[formic_macros::test]
/// async fn generic<T>() {}
/// ```
/// ```compile_fail
/// #[formic_macros::test]
/// struct NotAFunction;
/// ```
///
/// And the like of them that is not, which shows that the above fail for their own faults:
///
/// ```
/// #[formic_macros::test]
/// async fn fine() {}
/// ```
#[cfg(doctest)]
fn refused() {}

"""What goes wrong, and how it looks: nothing here needs a key or a network."""

from slmclient import PhiClient, errors


def attempt(what: str, **settings: str) -> None:
    try:
        with PhiClient(**settings, env_file=False, max_retries=1) as client:
            client.chat("What is the capital of Japan?")
    except errors.RetiredError as error:
        print(f"{what}: gone since {error.retired_on}; instead: {error.replacement}")
    except errors.ConfigurationError as error:
        print(f"{what}: set up wrongly: {error}")
    except errors.SLMError as error:
        print(f"{what}: {type(error).__name__} after {len(error.attempts)} tries: {error}")


def main() -> None:
    attempt("a typing error", provider="azur")
    attempt("a model as provider", provider="phi-4-mini")
    attempt("an address without scheme", base_url="localhost:8080")
    attempt("a service that was switched off", provider="github")
    attempt("a server that is not there", base_url="http://127.0.0.1:9/v1", model="any")


if __name__ == "__main__":
    main()

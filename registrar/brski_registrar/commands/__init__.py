"""The verbs of `brski-registrar`: each reads its options, calls one verb of the registrar, and shows what came back."""

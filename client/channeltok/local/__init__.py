"""A tokenizer in this process, without a server: `channeltok.Tokenizer`.

    source -> graphs.py: which files -> tokenizer.py: images and tokens -> engines.py: threads

Needs the extra `local`. Only this folder of the client uses other packages of the project: imaging
(an image's pixels must be those that the service sees), the engine file that Triton runs as well
(export/triton/python_backend.py), and for `as_module` the models in tokenizer/.
"""

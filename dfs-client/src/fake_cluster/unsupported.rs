//! Calls that no test of this crate makes.

/// Methods of a service that say so.
macro_rules! unsupported {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        $(fn $name<'life0, 'async_trait>(
            &'life0 self,
            _: tonic::Request<$request>,
        ) -> std::pin::Pin<
            Box<dyn Future<Output = Result<tonic::Response<$answer>, tonic::Status>> + Send + 'async_trait>,
        >
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(tonic::Status::unimplemented(stringify!($name))) })
        })*
    };
}
pub(super) use unsupported;
